import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import image

from kgpt_jax.answer.attention import Map, attention_maps
from kgpt_jax.config import UserError
from kgpt_jax.data.vocab import MASK, Vocab
from kgpt_jax.model.gpt import GPT
from kgpt_jax.model.variants import VARIANTS
from kgpt_jax.modes.attend import draw
from kgpt_jax.store import outputs
from tests import tiny

VOCAB = Vocab.of("abcdefghijk")
TEXT = f"abcdefg{MASK}hij"


def maps_of(variant, **changes):
    model, params, _ = tiny.make(variant, **changes)
    return attention_maps(model, params, VOCAB, TEXT, source=8), params, model


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"linformer"}))
def test_every_row_of_a_map_is_a_mean(variant):
    maps, _, _ = maps_of(variant)
    for found in maps:
        assert found.weights_HTS.shape == (2, len(found.rows), len(found.columns))
        np.testing.assert_allclose(found.weights_HTS.sum(axis=-1), 1, rtol=1e-5)
        assert (found.weights_HTS >= 0).all()
        assert "".join(found.rows) in (TEXT, "012345")
        assert "".join(found.columns) in (TEXT, "012345")
    layers = [found.layer for found in maps]
    assert len(set(layers)) == len(layers) >= 2


def test_vanillas_map_is_the_formula():
    """softmax(Q K^T / sqrt(K)) of the first layer, in plain NumPy."""
    maps, params, model = maps_of("vanilla")
    assert [found.layer for found in maps] == ["blocks_0/attn", "blocks_1/attn"]
    p = jax.tree.map(np.asarray, params)
    block = p["stack"]["blocks_0"]
    x_TC = p["tok_emb"]["embedding"][VOCAB.encode(TEXT)] + p["pos_emb"][: len(TEXT)]
    x_TC = x_TC - x_TC.mean(axis=1, keepdims=True)
    h_TC = x_TC / np.sqrt((x_TC**2).mean(axis=1, keepdims=True) + 1e-5) * block["ln1"]["scale"]
    h_TC += block["ln1"]["bias"]
    q_TC, k_TC = (h_TC @ block["attn"][n]["kernel"] + block["attn"][n]["bias"] for n in ("query", "key"))
    for head in range(2):
        mine = slice(4 * head, 4 * head + 4)
        weights_TS = np.tril(np.exp(q_TC[:, mine] @ k_TC[:, mine].T / 2))
        weights_TS /= weights_TS.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(maps[0].weights_HTS[head], weights_TS, rtol=1e-4, atol=1e-6)


def test_the_encoder_reads_both_ways_and_the_decoder_what_follows():
    maps = {found.layer: found.weights_HTS for found in maps_of("encoder_decoder")[0]}
    assert maps["encoder/blocks_0/attn"][0, 0, 7] > 0
    assert not maps["encoder/blocks_0/attn"][0, :, 8:].any()
    assert not maps["decoder_0/attn"][0, 8:, :7].any() and maps["decoder_0/attn"][0, 8, 7] > 0
    assert not maps["decoder_0/cross"][0, :, 8:].any() and maps["decoder_0/cross"][0, 8, 0] > 0


def test_segments_stand_side_by_side():
    maps = {found.layer: found.weights_HTS[0] for found in maps_of("perceiver_ar")[0]}
    assert maps["blocks_0/attn"][10, 0] > 0  # the first layer looks at the whole past
    later = maps["blocks_1/attn"]
    assert later[5, 0] > 0 and later[10, 6] > 0 and not later[6:, :6].any()


def test_a_variant_without_maps_is_named():
    with pytest.raises(UserError, match="variant 'linformer' has no weights by position"):
        maps_of("linformer")


def test_the_picture_is_written(tmp_path):
    maps, _, _ = maps_of("perceiver")
    draw(maps, "What costs $5 or $6?", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="cannot write .*map.nopicture: .*; give another path"):
        draw(maps, "", tmp_path / "map.nopicture")


def size_of(path):
    return image.imread(path).shape[1::-1]


@pytest.mark.parametrize(
    "n_layer, n_head, chosen", [(4, 8, (None, None)), (4, 8, (2, 3)), (4, 8, (2, None)), (1, 1, (None, None))]
)
def test_the_picture_fits_a_screen(tmp_path, n_layer, n_head, chosen):
    text = "Where was Khatchig Mouradian born?⁇Lebanon"
    weights_HTS = np.tril(np.ones((n_head, len(text), len(text)), np.float32))
    maps = [Map(f"blocks_{i}/attn", weights_HTS, list(text), list(text)) for i in range(n_layer)]
    draw(maps, "vanilla", tmp_path / "map.png", *chosen)
    width, height = size_of(tmp_path / "map.png")
    assert 900 <= max(width, height) and width <= 1600 and height <= 1000


def drawn(monkeypatch, maps, **chosen):
    """Returns the titles of the panels, and the labels of the first one's axes."""
    seen = []
    monkeypatch.setattr(outputs, "write_picture", lambda path, figure, *_: seen.append(figure))
    draw(maps, "title", Path("map.png"), **chosen)
    *panels, bar = seen[0].axes
    assert bar.get_ylabel() == "attention weight"
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    return [panel.get_title() for panel in panels if panel.get_title()], labels


def test_layers_and_heads_are_numbered_from_1_and_chosen(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    maps, _, _ = maps_of("vanilla")
    every, _ = drawn(monkeypatch, maps)
    assert every == [f"layer {i}, head {h}" for i in (1, 2) for h in (1, 2)]
    assert drawn(monkeypatch, maps, layer=2, head=1)[0] == ["layer 2, head 1"]
    assert drawn(monkeypatch, maps, head=2)[0] == ["layer 1, head 2", "layer 2, head 2"]
    others, _ = drawn(monkeypatch, maps_of("perceiver")[0], head=1)
    assert others == ["layer 1 (down_block/attn), head 1", "layer 2 (up_block/attn), head 1"]
    with pytest.raises(UserError, match="--layer=3: the model has layers 1 to 2"):
        draw(maps, "", tmp_path / "map.png", layer=3)
    with pytest.raises(UserError, match="--head=3: the model has heads 1 to 2"):
        draw(maps, "", tmp_path / "map.png", head=3)


def test_one_panel_shows_characters_and_many_show_words(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = "Where was Khatchig Mouradian born?⁇Lebanon"
    weights_HTS = np.tril(np.ones((8, len(text), len(text)), np.float32))
    maps = [Map(f"blocks_{i}/attn", weights_HTS, list(text), list(text)) for i in range(4)]
    assert "".join(drawn(monkeypatch, maps, layer=1, head=1)[1]) == text.replace(" ", "␣")
    assert drawn(monkeypatch, maps)[1] == ["Where", "was", "Khatch…", "Mourad…", "born?", "Lebanon"]


def test_bfloat16_runs_have_maps_too():
    _, params, model = maps_of("vanilla")
    half = GPT(dataclasses.replace(model.cfg, dtype="bfloat16"))
    weights = attention_maps(half, params, VOCAB, TEXT, 8)[0].weights_HTS
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
