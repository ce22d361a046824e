"""The enqueued-token quota: a batch's tokens count against its deployment until the batch has ended."""

from collections import Counter

from devkit.azure_openai.options import Options


class Quota:
    """Sums of enqueued tokens by deployment."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.enqueued: Counter[str] = Counter()

    def limit(self, deployment: str) -> int | None:
        """Tokens that the deployment may have enqueued; None if there is no limit."""
        return self._options.token_limits.get(deployment, self._options.token_limit)

    def any_limit(self) -> bool:
        """Whether there is a deployment with a limit."""
        return self._options.token_limit is not None or bool(self._options.token_limits)

    def admit(self, deployment: str, tokens: int) -> str | None:
        """Enqueue the tokens and return None; or, if that were too many, return the sentence that says so."""
        limit, sum_of_all = self.limit(deployment), self.enqueued[deployment] + tokens
        if limit is not None and sum_of_all > limit:
            return f"Enqueued tokens of deployment '{deployment}' would be {sum_of_all}, the limit is {limit}."
        self.enqueued[deployment] = sum_of_all
        return None

    def release(self, deployment: str, tokens: int) -> None:
        """Give back what was admitted."""
        self.enqueued[deployment] -= tokens

    def headers(self, deployment: str, tokens: int) -> dict[str, str]:
        """Headers of the answer to create; source: reference, section Create. `tokens` are those of the new batch."""
        limit, counts = self.limit(deployment), self._options.enqueued_header
        if limit is None or not self._options.quota_headers:
            return {}
        told = {"deployment": self.enqueued[deployment], "file": tokens}
        enqueued = {} if counts == "none" else {"deployment-enqueued-tokens": str(told[counts])}
        return {"deployment-maximum-enqueued-tokens": str(limit)} | enqueued
