"""The state machine, run: see machine.py. MODEL_EXAMPLES=20000 looks longer."""

import os

from hypothesis import HealthCheck, settings

from tests.model.machine import Pipeline, PipelineOnBlobs

settings.register_profile(
    "model",
    max_examples=int(os.environ.get("MODEL_EXAMPLES", "2000")) // 2,
    stateful_step_count=20,
    derandomize=False,
    deadline=None,
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

TestPipeline = Pipeline.TestCase
TestPipeline.settings = settings.get_profile("model")

TestPipelineOnBlobs = PipelineOnBlobs.TestCase
TestPipelineOnBlobs.settings = settings.get_profile("model")
