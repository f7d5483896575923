"""evaluation/programs.py: what is measured is the program; command lines; failures."""

import sys
from pathlib import Path

import numpy as np
import pytest

from stackmff.errors import StackError
from stackmff.evaluation.programs import PEERS, run_measured


def test_what_is_measured_is_the_program(tmp_path):
    here = np.ones(40 << 17)  # 40 MiB of this process are none of the other's
    work = "import time; held = bytearray(b'1') * (%d << 20); time.sleep(0.2)"
    runs = [
        run_measured([sys.executable, "-S", "-c", work % held], tmp_path / "log")
        for held in (0, 80)
    ]
    assert runs[1].mib - runs[0].mib == pytest.approx(80, abs=8)
    assert runs[0].mib < 40
    assert runs[1].seconds > 0.2 and runs[1].cpu_seconds < runs[1].seconds
    assert here.sum() == 40 << 17


def test_the_command_line_of_a_program():
    line = PEERS["enfuse"].command([Path("a b.jpg"), Path("c.jpg")], Path("out.tif"))
    assert line[:2] == ["enfuse", "--exposure-weight=0"]
    assert line[-3:] == ["--output=out.tif", "a b.jpg", "c.jpg"]


def test_a_program_gets_its_environment_and_the_time_of_its_start(tmp_path):
    code = "import os; print(os.environ['A'], float(os.environ['STARTED_AT']) > 0)"
    run_measured([sys.executable, "-S", "-c", code], tmp_path / "log", {"A": "b"})
    assert (tmp_path / "log").read_text() == "b True\n"


def test_a_failure_tells_the_last_line(tmp_path):
    command = [sys.executable, "-S", "-c", "import sys; print('well'); sys.exit('no\\n\\n')"]
    with pytest.raises(StackError, match="its process ended with exit status 1: no"):
        run_measured(command, tmp_path / "log")
