import os
import sys

import pytest

from launch import stage


@pytest.fixture
def launch(monkeypatch, capsys):
    """A function that runs `python -m launch.pretrain` in this process and returns what it prints.

    For commands that start nothing: `--dry_run`, `--help` and mistakes. Variables are set for one call.
    """
    monkeypatch.setattr(stage, "prepare", lambda: None)  # it may replace this process
    monkeypatch.setattr("kgpt_jax.environment.prepare", lambda: None)
    before = dict(os.environ)

    def printed(*words, **variables):
        words = ["launch.pretrain", *map(str, words)]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-m", *words])
        monkeypatch.setattr(os, "environ", before | variables)
        stage.start("pretrain")
        return capsys.readouterr().out

    return printed
