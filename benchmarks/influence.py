"""Which document taught an answer? python -m benchmarks.influence --reading_params_path=runs/vanilla/finetune

For held-out questions that a run answers right, the command ranks all documents in several ways, and counts
how often the first one states the answer about the name:

    TracIn          the scalar product of two gradients: the answer's and the document's (arXiv 2002.08484)
    TracIn, cosine  the same, divided by the length of the document's gradient
    BM25            the words that the document shares with the question and the answer
    look-up         lines about the name (`kgpt_jax/data/lookup.py`), those with the answer first

A document's loss is that of the text that pretraining would make by masking the answer or, if it is not
there, its last quarter. TracIn uses the run's last parameters alone.
"""

import dataclasses
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.report import guarded
from kgpt_jax.answer.score import Score, percent
from kgpt_jax.answer.voters import ask, load_voters
from kgpt_jax.config import UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.lookup import Lookup
from kgpt_jax.data.names import frame
from kgpt_jax.data.objectives import Span, corrupt, question_text
from kgpt_jax.data.people import everyone
from kgpt_jax.data.vocab import PAD, PAD_ID
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import fit_to
from kgpt_jax.store.folder import read_run
from kgpt_jax.train.step import cross_entropy_sum

FLAGS = flags.FLAGS
ROWS = 64  # documents at once


def loss(params, model: GPT, text_BL: jax.Array, given_B: jax.Array) -> jax.Array:
    """Returns the mean loss of each text's characters after those that are given, (B,)."""
    logits_BTV = model.apply({"params": params}, text_BL[:, :-1], given_B, train=False)
    follows_BT = jnp.arange(text_BL.shape[1] - 1)[None] >= given_B[:, None] - 1
    y_BT = jnp.where(follows_BT, text_BL[:, 1:], PAD_ID)
    sums_B = jax.vmap(cross_entropy_sum)(logits_BTV, y_BT)
    return sums_B / jnp.maximum((y_BT != PAD_ID).sum(1), 1)


@partial(jax.jit, static_argnames="model")
def products(params, direction, model: GPT, text_BL: jax.Array, given_B: jax.Array) -> jax.Array:
    """Returns the product of each text's gradient with a direction, (B,), without storing any gradient."""
    _, weighted_gradient = jax.vjp(lambda at: loss(at, model, text_BL, given_B), params)
    # `jax.jvp` cannot pass `model/dense.py`, which defines its own gradient. The weighted sum of the texts'
    # gradients is linear in the weights, and its transpose multiplies each gradient with the direction.
    weight_B = jax.ShapeDtypeStruct(given_B.shape, jnp.float32)
    return jax.linear_transpose(weighted_gradient, weight_B)((direction,))[0]


@partial(jax.jit, static_argnames="model")
def lengths(params, model: GPT, text_BL: jax.Array, given_B: jax.Array) -> jax.Array:
    """Returns the length of each text's gradient, (B,)."""

    def length(text_L, given):
        slope = jax.grad(lambda at: loss(at, model, text_L[None], given[None])[0])(params)
        return jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(slope)))

    return jax.lax.map(lambda row: length(*row), (text_BL, given_B))


def text_of(document: str, answer: str, room: int) -> tuple[str, int]:
    """Returns the text that masks the answer in a document, and how many of its characters are given."""
    kept = document[: room - 3]
    start, width = kept.find(answer), len(answer)
    if start < 0 or not answer:
        start = 3 * len(kept) // 4
        width = len(kept) - start
    text = corrupt(kept, Span(len(kept), start, width), room)
    return text, len(kept) - width + 2


def main(_):
    run = read_run(FLAGS.reading_params_path)
    config = fit_to(run, run.config)
    # Rounded factors would also round the gradients.
    model = GPT(dataclasses.replace(config.model, products="float32"))
    voters, room = load_voters([(run, config)], "asking"), config.model.seq_len + 1
    params = voters[0].models[0]
    pairs = corpus.load_pairs(config.data).pairs
    documents = [document for document in corpus.load_documents(config.data).documents if document]
    where = frame([question for question, _ in pairs])
    lookup = Lookup(documents, everyone(config.data, where))
    questions = corpus.load_questions(config.data)
    if questions.answers is None:
        raise UserError(f"the evaluation questions of {run.folder} have no answers: choose another run")
    asked = questions.pairs
    answers = ask(voters, [question for question, _ in asked]).answers[0]
    right = [pair for pair, answer in zip(asked, answers) if pair[1] == answer]
    named = [pair for pair in right if (name := where.name(pair[0])) and lookup.find(name).rows]
    chosen = named[: FLAGS.questions]
    if not chosen:
        raise UserError(
            f"of {len(asked)} questions, {run.folder} answers none right whose name is in a document: choose "
            "another run"
        )
    places = {answer for _, answer in [*pairs, *asked]}
    texts = [text_of(each, next((p for p in sorted(places) if p in each), ""), room) for each in documents]
    longest = max(len(text.rstrip(PAD)) for text, _ in texts)
    texts = [(text[:longest], given) for text, given in texts]
    rows = -len(texts) % ROWS
    text_NL = np.array([run.vocab.encode(text) for text, _ in texts + texts[:rows]])
    given_N = np.array([given for _, given in texts + texts[:rows]])
    batches = [slice(first, first + ROWS) for first in range(0, len(text_NL), ROWS)]

    def over_documents(function, *args) -> np.ndarray:
        found = [function(*args, model, text_NL[batch], given_N[batch]) for batch in batches]
        return np.concatenate(jax.device_get(found))[: len(documents)]

    length_N = over_documents(lengths, params)
    slope_of = jax.jit(jax.grad(lambda at, text, given: loss(at, model, text, given)[0]))
    began, hits = time.perf_counter(), {}
    for question, answer in chosen:
        name = where.name(question)
        text = run.vocab.encode(question_text(question, answer, room))
        slope = slope_of(params, text[None], np.array([len(question) + 1]))
        product_N = over_documents(products, params, slope)
        about = lookup.find(name).rows
        ranked = {
            "TracIn": int(product_N.argmax()),
            "TracIn, cosine": int((product_N / length_N).argmax()),
            "BM25": lookup.by_text(f"{question} {answer}"),
            "look-up": next((row for row in about if answer in documents[row]), about[0]),
        }
        for how, row in ranked.items():
            of_name, states = row in about, row in about and answer in documents[row]
            before = hits.get(how, (0, 0, 0))
            same = answer in documents[row]
            hits[how] = (before[0] + states, before[1] + of_name, before[2] + same)
    seconds = (time.perf_counter() - began) / len(chosen)
    print(f"{len(chosen)} questions answered right, {len(documents):,} documents, {seconds:.1f} s a question")
    print(f"{'':<16}{'states it':>10}  {'95% interval':<18}{'same name':>10}{'same answer':>13}")
    for how, (states, of_name, same) in hits.items():
        score = Score(states, len(chosen))
        print(
            f"{how:<16}{score.accuracy:>10.1%}  {percent(score.interval):<18}"
            f"{of_name / len(chosen):>10.1%}{same / len(chosen):>13.1%}"
        )


if __name__ == "__main__":
    flags.DEFINE_string("reading_params_path", None, "The folder of a finetuned run.", required=True)
    flags.DEFINE_integer("questions", 50, "Questions to ask, at most.", lower_bound=1)
    app.run(guarded(main))
