from functools import partial

import jax
import numpy as np
import pytest

from kgpt_jax import devices
from kgpt_jax.answer.decode import (
    check_rows,
    continue_texts,
    ended,
    ends_of_texts,
    pad_prompts,
    read_next,
    read_prompts,
    read_start,
    sample,
)
from kgpt_jax.config import UserError, override
from kgpt_jax.data.vocab import MASK, MASK_ID, PAD_ID
from kgpt_jax.model import encoder_decoder
from kgpt_jax.model.variants import VARIANTS
from tests import runs, tiny


def prompts():
    rng = np.random.default_rng(2)
    return [rng.integers(2, 13, n).astype(np.int32) for n in (5, 1, 9, 15)]


def one_by_one(model, params, prompt, max_new, stop_at_mask):
    """The slow way: the whole text read again for every character, no cache."""
    text, source_B = list(prompt), np.array([len(prompt)])
    while len(text) - len(prompt) < max_new and len(text) <= model.cfg.seq_len:
        x_BT = np.array([text + [PAD_ID] * (model.cfg.seq_len - len(text))])  # one shape, one program
        text.append(int(tiny.logits(model, params, x_BT, source_B)[0, len(text) - 1].argmax()))
        if stop_at_mask and text[-1] == MASK_ID:
            break
    return text[len(prompt) :]


@pytest.mark.parametrize(
    "variant, max_new, stop_at_mask",
    [(variant, 20, True) for variant in VARIANTS] + [("vanilla", 3, False), ("vanilla", 20, False)],
)
def test_greedy_equals_reading_everything_again(variant, max_new, stop_at_mask):
    model, params, _ = tiny.make(variant, n_layer=tiny.few_layers(variant))
    params["head"]["kernel"] = params["head"]["kernel"].at[:, MASK_ID].add(0.3)  # some rows end early
    prompt_BP, length_B = pad_prompts(prompts(), 6, 15)
    new_BW = np.asarray(
        continue_texts(
            model,
            params,
            prompt_BP,
            length_B,
            jax.random.key(0),
            max_new=max_new,
            stop_at_mask=stop_at_mask,
        )
    )
    for prompt, new_W in zip(prompts(), new_BW):
        expected = one_by_one(model, params, prompt, max_new, stop_at_mask)
        assert new_W[: len(expected)].tolist() == expected
        assert (new_W[len(expected) :] == PAD_ID).all()
    assert (new_BW[4:] == PAD_ID).all()  # rows of length 0


@pytest.mark.parametrize("variant", ["vanilla", "synthesizer", "linformer", "perceiver"])
def test_a_common_start_is_not_read_again_and_changes_nothing(variant):
    model, params, _ = tiny.make(variant, seq_len=31, block_size=32)
    rng = np.random.default_rng(4)
    same = rng.integers(2, 13, 8)
    texts = [np.concatenate([same, rng.integers(2, 13, n)]).astype(np.int32) for n in (1, 4, 6)]
    prompt_BP, length_B = pad_prompts([np.zeros(0, np.int32), *texts], 5, 31)

    @jax.jit
    def first_logits(prompt_BP, start=None):
        last_B, cache = read_prompts(model, params, prompt_BP, length_B, 4, start)
        return read_next(model, params, cache, last_B, length_B, 0)[0][1:4]  # without the empty rows

    expected_BV = np.asarray(first_logits(prompt_BP))
    start = read_start(model, params, same[None])
    np.testing.assert_allclose(first_logits(prompt_BP, start), expected_BV, rtol=1e-5, atol=1e-5)
    prompt_BP[:, :8] = 5
    np.testing.assert_allclose(first_logits(prompt_BP, start), expected_BV, rtol=1e-5, atol=1e-5)
    assert np.abs(first_logits(prompt_BP) - expected_BV).max() > 0.01


def sampled(temperature, top_k, seed, rows=400):
    model, params, _ = tiny.make("vanilla")
    prompt_BP, length_B = pad_prompts([np.array([2, 3, 4])] * rows, rows, 15)
    return np.asarray(
        continue_texts(
            model,
            params,
            prompt_BP,
            length_B,
            jax.random.key(seed),
            max_new=1,
            stop_at_mask=False,
            temperature=temperature,
            top_k=top_k,
        )
    )[:, 0]


def test_sampling_follows_the_models_probabilities():
    model, params, _ = tiny.make("vanilla")
    logits_V = tiny.logits(model, params, np.array([[2, 3, 4]]))[0, -1]
    logits_V = logits_V.at[PAD_ID].set(-np.inf)
    expected_V = np.asarray(jax.nn.softmax(logits_V / 0.7))
    drawn = sampled(0.7, 0, seed=0, rows=20_000)
    shares_V = np.bincount(drawn, minlength=13) / len(drawn)
    np.testing.assert_allclose(shares_V, expected_V, atol=5 * np.sqrt(0.25 / len(drawn)))


def test_sampling_is_seeded_and_top_k_cuts():
    assert (sampled(1.0, 0, seed=1) == sampled(1.0, 0, seed=1)).all()
    assert (sampled(1.0, 0, seed=1) != sampled(1.0, 0, seed=2)).any()
    assert len(set(sampled(5.0, 3, seed=1))) == 3
    assert set(sampled(5.0, 1, seed=1)) == set(sampled(0.0, 0, seed=1))


def test_the_logits_of_a_prompt_are_not_computed():
    model, params, _ = tiny.make("vanilla")
    prompt_BP, length_B = pad_prompts(prompts(), 6, 15)
    read = jax.jit(partial(read_prompts, model, max_new=1))
    operations = read.lower(params, prompt_BP, length_B).compile().as_text()
    assert "/stack/blocks_1/attn/key/" in operations
    assert "/stack/blocks_1/mlp/" not in operations and "/head/" not in operations


def test_the_encoder_runs_once_for_a_batch_of_answers(monkeypatch):
    """In a trace, the loop over characters calls what is in it once."""
    model, params, _ = tiny.make("encoder_decoder")
    calls, read = {"Encoder": 0, "DecoderBlock": 0}, {}
    for kind in (encoder_decoder.Encoder, encoder_decoder.DecoderBlock):
        read[kind] = kind.__call__

        def counted(self, *args, **kwargs):
            calls[type(self).__name__] += 1
            return read[type(self)](self, *args, **kwargs)

        monkeypatch.setattr(kind, "__call__", counted)
    prompt_BP, length_B = pad_prompts(prompts()[:2], 2, 15)
    write = partial(continue_texts.__wrapped__, model, max_new=3, stop_at_mask=False)  # traced anew
    jax.eval_shape(write, params, prompt_BP, length_B, jax.random.key(0))
    assert calls == {"Encoder": 1, "DecoderBlock": 2 * (1 + 1)}  # two layers: the prompt, the loop


@pytest.mark.parametrize("variant", ["vanilla", "perceiver", "encoder_decoder"])
def test_more_texts_than_memory_holds_are_refused(variant, monkeypatch):
    model, params, _ = tiny.make(variant)
    check_rows(model, params, 4, 10, "--num_samples=4", "lower it")
    monkeypatch.setattr(devices, "memory", lambda: 4 * model.cfg.vocab_size * 10)  # logits of ten texts
    with pytest.raises(UserError, match="--num_samples=10 needs .* lower it"):
        check_rows(model, params, 10, 10, "--num_samples=10", "lower it")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_is_written_where_a_text_may_end_and_nowhere_else(temperature):
    """With every score of MASK raised so far that MASK is always the likeliest character."""
    model, params, _ = tiny.make("vanilla")
    row_C = np.ones(8, np.float32)  # `ln_f` gives a mean of its biases, so that a bias decides
    params["ln_f"] = {"scale": 0 * row_C, "bias": row_C}
    params["head"]["kernel"] = params["head"]["kernel"].at[:, MASK_ID].set(100.0)
    prompt_BP, length_B = pad_prompts([np.array([5, 4]), np.array([4, 5])], 2, 15)

    def write(**given):
        options = {"max_new": 6, "stop_at_mask": True, "temperature": temperature, **given}
        return np.asarray(continue_texts(model, params, prompt_BP, length_B, jax.random.key(3), **options))

    assert (write()[:, 0] == MASK_ID).all()
    ends_V = np.arange(13) == 4
    new_BW = write(ends_V=ends_V)
    assert new_BW[0].tolist() == [MASK_ID, 0, 0, 0, 0, 0]  # behind 4
    before = 5
    for after in new_BW[1]:
        if before in (MASK_ID, PAD_ID):
            assert after == PAD_ID
        else:
            assert (after == MASK_ID) == (before == 4)
        before = after


def test_without_a_likeliest_mask_nothing_ends():
    model, params, _ = tiny.make("vanilla")
    params["head"]["kernel"] = params["head"]["kernel"].at[:, MASK_ID].set(0.0)
    row_C = np.ones(8, np.float32)
    params["ln_f"] = {"scale": 0 * row_C, "bias": row_C}
    params["head"]["kernel"] = params["head"]["kernel"].at[:, 3].set(1.0)  # likelier than MASK, always
    prompt_BP, length_B = pad_prompts([np.array([5])] * 50, 50, 15)
    options = {"max_new": 5, "stop_at_mask": True, "temperature": 1.0, "ends_V": np.ones(13, bool)}
    new_BW = np.asarray(continue_texts(model, params, prompt_BP, length_B, jax.random.key(0), **options))
    assert (new_BW != MASK_ID).all() and (new_BW != PAD_ID).all()


@pytest.mark.parametrize(
    "prompt, new, text",
    [
        ("Al ", f"sang.{MASK}□□", "Al sang."),
        ("Al ", f"sa{MASK}□", "Al sa"),  # the model says that the text ends
        ("Al ", "sang.\nBo", "Al sang."),
        ("Al ", "sang. He pl", "Al sang."),
        ("Al ", 'said "no." He pl', 'Al said "no."'),
        ("Al ", "has 3.5 ha", "Al has 3.5 ha"),  # a point within a number ends no sentence
        ("Al. Bo ", "sa", "Al. Bo sa"),  # no sentence ends beyond the prompt
        ("Al\nBo ", "sang.", "Al Bo sang."),
        ("Al", "", "Al"),
    ],
)
def test_a_sample_is_one_line_and_ends_where_its_text_ends(prompt, new, text):
    assert ended(prompt, new) == text


def test_who_has_read_whole_lines_may_end_anywhere(tmp_path):
    run = runs.saved(tmp_path / "a")
    ends_V = ends_of_texts(run, "Ann")
    assert {c for c, ends in zip(run.vocab.characters, ends_V) if ends} == set(".'?") & set(
        run.vocab.characters
    )
    assert ends_of_texts(run, f"Where?{MASK}").all()
    lines = override(runs.CONFIG, {"pretrain.objective": "span_corruption=0.6,whole_line=0.4"})
    assert ends_of_texts(runs.saved(tmp_path / "b", lines), "Ann").all()


def test_samples_leave_no_room_beyond_what_the_model_reads(tmp_path):
    run = runs.saved(tmp_path)
    [text] = sample(run, run.config, "a" * 127, n=1, max_new=100, temperature=1.0, top_k=0)
    assert text.startswith("a" * 127) and len(text) <= 128
    with pytest.raises(UserError, match="the prompt has 128 characters: give 1 to 127"):
        sample(run, run.config, "a" * 128, n=1, max_new=100, temperature=1.0, top_k=0)
