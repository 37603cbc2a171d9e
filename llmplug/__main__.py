"""`python -m llmplug` is `llmplug`."""

from __future__ import annotations

import sys

from llmplug.cli import main

sys.exit(main())
