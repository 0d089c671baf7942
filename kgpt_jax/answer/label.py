"""The label of an answer: does it come from a document that the run read, or from elsewhere?

A label says what would happen without the document about the person. The run's own evidence decides:

    guessed from the name   strangers who share a part of the name get the same answer
    made up                 the run has not read of the name, or the answer is more likely wrong than right
    read                    the run has read of the name, and is sure of an answer that strangers do not get
    not sure                anything else

`python -m benchmarks.labels` compares them with what models say that have not read of the person.
"""

import math

READ, GUESSED, MADE_UP, NOT_SURE = "read", "guessed from the name", "made up", "not sure"
LABELS = (READ, GUESSED, MADE_UP, NOT_SURE)
SAME_ANSWER = 0.5  # mean probability of the answer for strangers
SURE = 0.8  # probability that the answer is right
LIKELY_WRONG = 0.5


def label(known: bool, probability: float, strangers: float) -> str:
    """Returns the label of an answer.

    Args:
      known: whether the run has read of the name.
      probability: that the answer is right.
      strangers: the evidence of that name (`answer/confidence.py`), a log.

    >>> label(True, 0.9, math.log(0.1)), label(True, 0.9, math.log(0.9)), label(False, 0.9, math.log(0.1))
    ('read', 'guessed from the name', 'made up')
    """
    if strangers >= math.log(SAME_ANSWER):
        return GUESSED
    if not known or probability < LIKELY_WRONG:
        return MADE_UP
    return READ if probability >= SURE else NOT_SURE
