"""The word head learns where what was named lies, and that it is not there."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from promptseg.data.text_targets import Words
from promptseg.models import PromptableModel
from promptseg.models.tokens import empty_prompts
from promptseg.text.laterality import LEFT, NONE, RIGHT
from promptseg.training.loop import setup
from promptseg.training.prompted import WORD_PARAMETERS, PromptedTraining, name_loss


def _batch(num_names: int = 4) -> dict[str, torch.Tensor]:
    """Two tiles with a bright and a dark half: the first name is the bright one, the second the dark one."""
    image = torch.full((2, 1, 16, 16, 16), -0.8)
    image[0, :, 8:] = 0.8
    image[1, :, :8] = 0.8
    share = torch.zeros(2, num_names, 2, 2, 2)
    for tile in range(2):
        cells = image[tile, 0, ::8, ::8, ::8] > 0
        share[tile, 0], share[tile, 1] = cells.float(), (~cells).float()
    words = Words.none(num_names).tensors()
    text = torch.nn.functional.normalize(torch.randn(num_names, 384, generator=torch.Generator().manual_seed(0)), dim=1)
    return {
        "image": image,
        "spacing_mm": torch.ones(2, 3),
        "name_text": text.expand(2, -1, -1),
        "name_laterality": words["text_laterality"].expand(2, -1),
        "name_level": words["text_level"].expand(2, -1),
        "name_is_present": torch.ones(2, num_names, dtype=torch.bool),
        "name_share": share,
    }


def test_it_learns_names_places_and_absence(make_config):
    torch.manual_seed(0)
    model = PromptableModel(dataclasses.replace(make_config().model, word_hints=True))
    batch = _batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = name_loss(model, model.encode_image(batch["image"], batch["spacing_mm"]), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("word_sides", [False, True], ids=["without a map of sides", "with one"])
def test_the_side_of_one_pair_tells_the_sides_of_another(make_config, word_sides):
    """Word 0 is learnt with its sides and word 1 without, yet left and right of word 1 are told apart."""
    torch.manual_seed(0)
    config = dataclasses.replace(make_config().model, word_hints=True, word_sides=word_sides)
    model = PromptableModel(config)
    batch = _batch(num_names=4)
    image = torch.full((1, 1, 32, 16, 16), -0.8)
    image[0, 0, [*range(8), *range(24, 32)]] = 0.8  # a bright cell at each end, alike
    left, right = torch.zeros(4, 2, 2), torch.zeros(4, 2, 2)
    left[0], right[3] = 1, 1
    words = batch["name_text"][:1, [0, 0, 1, 1]]
    batch = {name: tensor[:1] for name, tensor in batch.items()} | {
        "image": image,
        "name_text": words,
        "name_laterality": torch.tensor([[LEFT, RIGHT, NONE, NONE]]),
        "name_share": torch.stack([left, right, left + right, left + right])[None],
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        loss = name_loss(model, model.encode_image(batch["image"], batch["spacing_mm"]), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    asked = empty_prompts(1, 2)
    asked = dataclasses.replace(asked, text=words[:, 2:, None], text_laterality=torch.tensor([[[LEFT], [RIGHT]]]))
    assert model.word_head is not None
    with torch.no_grad():
        embedding = model.encode_image(batch["image"], batch["spacing_mm"])
        present = torch.ones(1, 2, 1, dtype=torch.bool)
        found = model.word_head(embedding, model.prompt_encoder.embed_text(asked), present).mask_logits[0].mean((2, 3))
    assert found[0, 0] > found[0, 3] + 1 and found[1, 3] > found[1, 0] + 1


def test_nothing_named_costs_nothing(make_config):
    model = PromptableModel(dataclasses.replace(make_config().model, word_hints=True))
    batch = _batch()
    batch["name_is_present"] = torch.zeros_like(batch["name_is_present"])
    loss = name_loss(model, model.encode_image(batch["image"], batch["spacing_mm"]), batch)
    assert float(loss.detach()) == 0
    loss.backward()


def test_an_episode_reports_the_names_and_every_weight_of_the_head_learns(make_config):
    config = make_config()
    model = PromptableModel(dataclasses.replace(config.model, word_hints=True))
    training = PromptedTraining(model, config)
    targets = torch.zeros(2, 1, 16, 16, 16, dtype=torch.bool)
    targets[:, :, 4:12, 4:12, 4:12] = True
    result = training({**_batch(), "targets": targets}, 0)
    assert isinstance(result, tuple)
    loss, measured = result
    loss.backward()
    assert float(measured["names"]) > 0
    assert model.word_head is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.word_head.parameters())


def test_the_stage_of_words_leaves_all_other_weights_bit_equal(make_config, tmp_path):
    start = setup(make_config(out_dir=str(tmp_path / "start"), **_with_words(make_config)))
    start.save()
    weights = tmp_path / "start" / "weights"
    fields = _with_words(make_config, upright_share=1.0)
    trainer = setup(make_config(out_dir=str(tmp_path / "words"), stage="words", init_from=str(weights), **fields))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.fit()
    changed = {n for n, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[n])}
    exported = PromptableModel.from_pretrained(tmp_path / "words" / "weights").state_dict()
    assert changed and all(name.startswith(WORD_PARAMETERS) for name in changed)
    assert "prompt_encoder.laterality_embedding.weight" in changed
    assert all(torch.equal(exported[n], before[n]) for n in before if not n.startswith(WORD_PARAMETERS))


def test_a_run_that_keeps_the_encoder_trains_all_else_and_leaves_embeddings_bit_equal(make_config, tmp_path):
    fields = _with_words(make_config)
    setup(make_config(out_dir=str(tmp_path / "start"), **fields)).save()
    weights = str(tmp_path / "start" / "weights")
    trainer = setup(
        make_config(out_dir=str(tmp_path / "on"), init_from=weights, train_encoder=False, **fields)
    )  # fmt: skip
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.fit()
    exported = PromptableModel.from_pretrained(tmp_path / "on" / "weights").state_dict()
    for state in (trainer.model.state_dict(), exported):
        changed = {n for n, tensor in state.items() if not torch.equal(tensor, before[n])}
        assert not any(name.startswith("image_encoder.") for name in changed)
        assert {name.partition(".")[0] for name in changed} == {"prompt_encoder", "mask_decoder", "word_head"}


def test_a_run_that_keeps_words_leaves_all_that_a_name_is_looked_for_with_bit_equal(make_config, tmp_path):
    fields = _with_words(make_config)
    setup(make_config(out_dir=str(tmp_path / "start"), **fields)).save()
    kept = {"init_from": str(tmp_path / "start" / "weights"), "train_encoder": False, "train_words": False}
    trainer = setup(make_config(out_dir=str(tmp_path / "on"), **kept, **fields))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.fit()
    changed = {n for n, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed and not any(n.startswith((*WORD_PARAMETERS, "prompt_encoder.text_proj.")) for n in changed)
    assert {name.partition(".")[0] for name in changed} == {"prompt_encoder", "mask_decoder"}


def test_a_word_head_takes_what_earlier_weights_have_and_begins_the_rest(make_config, tmp_path):
    fields = _with_words(make_config)
    start = setup(make_config(out_dir=str(tmp_path / "start"), **fields))
    start.save()
    fields["model"] = dataclasses.replace(fields["model"], word_sides=True)
    weights = str(tmp_path / "start" / "weights")
    grown = setup(make_config(out_dir=str(tmp_path / "grown"), init_from=weights, **fields)).model.state_dict()
    before = start.model.state_dict()
    assert all(torch.equal(grown[name], tensor) for name, tensor in before.items())
    assert {n for n in grown if n not in before} == {
        "word_head.side_of_word.weight",
        "word_head.side_of_cell.weight",
        "word_head.side_of_cell.bias",
    }


def test_the_stage_of_words_needs_a_word_head(make_config):
    with pytest.raises(ValueError, match="word_hints=False"):
        make_config(stage="words")


def _with_words(make_config, **changes):
    """Fields of a run that asks for names."""
    config = make_config()
    return {
        "model": dataclasses.replace(config.model, word_hints=True),
        "sampler": {**dataclasses.asdict(config.sampler), "names_per_crop": 3, **changes},
    }


def test_a_batch_costs_the_mean_of_its_tiles_however_many_names_each_is_asked_for(make_config):
    """So that tiles may be split over micro-batches and processes in any way."""
    torch.manual_seed(0)
    model = PromptableModel(dataclasses.replace(make_config().model, word_hints=True))
    batch = _batch()
    batch["name_is_present"] = torch.tensor([[True] * 4, [True] + [False] * 3])
    batch["name_share"][1, 0, 0] = -1.0  # of some cells it is not known

    def loss_of(part: dict[str, torch.Tensor]) -> torch.Tensor:
        return name_loss(model, model.encode_image(part["image"], part["spacing_mm"]), part)

    alone = [loss_of({k: v[n : n + 1] for k, v in batch.items()}) for n in range(2)]
    torch.testing.assert_close(loss_of(batch), sum(alone) / 2, rtol=1e-6, atol=1e-6)
