"""The whole product on one machine: Azurite, the Azure OpenAI emulator, and Microsoft's runtime for Python."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.bench", f"{__name__}.stories")
