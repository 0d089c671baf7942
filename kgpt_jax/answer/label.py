"""The label of an answer: does it come from a document that the run read, or from elsewhere?

A label says what would happen without the document about the person. The run's own evidence decides, and the
first label that fits counts:

    guessed from the name   strangers who share a part of the name get the same answer
    made up                 the run does not know the name, or its confidence is below 60 %
    read                    the run knows the name, and is sure of an answer that strangers do not get
    not sure                anything else

`python -m benchmarks.labels` measures the labels against models that have not read of the person.
"""

import math

READ, GUESSED, MADE_UP, NOT_SURE = "read", "guessed from the name", "made up", "not sure"
LABELS = (READ, GUESSED, MADE_UP, NOT_SURE)
SAME_ANSWER, OTHER_ANSWER = 0.5, 0.25  # mean probability of the answer for strangers
SURE, LIKELY_WRONG = 0.85, 0.6  # confidence


def label(known: bool, confidence: float, strangers: float) -> str:
    """Returns the label of an answer.

    Args:
      known: whether the run knows the name.
      confidence: in the answer, from 0 to 1.
      strangers: the log probability of the answer for strangers (`answer/evidence.py`).

    >>> label(True, 0.9, math.log(0.1)), label(True, 0.9, math.log(0.9)), label(False, 0.9, math.log(0.1))
    ('read', 'guessed from the name', 'made up')
    """
    if strangers >= math.log(SAME_ANSWER):
        return GUESSED
    if not known or confidence < LIKELY_WRONG:
        return MADE_UP
    return READ if confidence >= SURE and strangers < math.log(OTHER_ANSWER) else NOT_SURE
