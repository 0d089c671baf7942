"""Takes the requirements from requirements.txt, so that no version is written twice.

pyproject.toml could only read all of that file, and the tests' requirements are in it.
"""

from pathlib import Path

from setuptools import setup

lines = Path(__file__).with_name("requirements.txt").read_text("utf-8").splitlines()
first = next(i for i, line in enumerate(lines) if line.startswith("# for the tests only"))
setup(
    install_requires=lines[:first],
    extras_require={
        "test": lines[first + 1 :],
        "dev": ["ruff==0.17.5", "mypy==1.20.1"],
        "tensorboard": ["tensorboardX>=2.6.4"],
        "safetensors": ["safetensors>=0.5"],
        "honest": ["scikit-learn>=1.6"],
        "lookup": ["rapidfuzz>=3.14", "bm25s>=0.3.16"],
        "web": ["starlette>=1.0", "uvicorn>=0.34", "jinja2>=3.1.6"],
        "torch": ["torch>=2.6"],
        "docs": ["sphinx>=9.0.4,<10", "myst-nb>=1.4.0", "sphinx-book-theme>=1.4.0"],
    },
)
