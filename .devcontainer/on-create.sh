#!/usr/bin/env bash
# What the image and its features lack: a browser for the tests of the dashboard, and Azure Functions Core Tools.
set -euo pipefail
sudo apt-get update -qq
sudo DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium make
npm install --global --no-audit --no-fund azure-functions-core-tools@4
