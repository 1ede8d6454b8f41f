"""`import shared_attention` is fast: torch comes with the first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_import_loads_no_heavy_module():
    assert run("import sys, shared_attention; print('torch' in sys.modules)") == "False"


def test_every_public_name_resolves_to_itself_whatever_was_imported_before():
    code = (
        "import shared_attention.registry, shared_attention.swapping, shared_attention as s\n"
        "values = {n: getattr(s, n) for n in s.__all__}\n"
        "print(callable(values['catalogue']), callable(values['swap']), sorted(dir(s)) == "
        "sorted(s.__all__))"
    )
    assert run(code) == "True True True"


def test_unknown_names_are_attribute_errors():
    code = "import shared_attention\ntry: shared_attention.x\nexcept AttributeError as e: print(e)"
    assert run(code) == "module 'shared_attention' has no attribute 'x'"
