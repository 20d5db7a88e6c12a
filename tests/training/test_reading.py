"""A run reads its data from folders or from a store, and its weights know the terms that the data teach."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from promptseg.data import Store, load_catalog, prepare
from promptseg.data.pool import TrainingPool
from promptseg.data.store_case import StoreConfig
from promptseg.data.store_zarr import export_zarr
from promptseg.models import ModelConfig, PromptableModel, TextTerm
from promptseg.training.initialisation import inherit
from promptseg.training.loop import setup
from promptseg.training.reading import read_pool, with_terms


@pytest.fixture(scope="session")
def organs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with a liver and a spleen, and a better catalog of it that knows where no lung is."""
    root = tmp_path_factory.mktemp("organs")
    folder = root / "trunk"
    folder.mkdir()
    labels = np.zeros((36, 36, 36), np.uint8)
    labels[4:18, 4:18, 4:18] = 1
    labels[22:30, 22:30, 22:30] = 2
    image = (100 * labels + np.random.default_rng(0).normal(0, 20, labels.shape)).astype(np.int16)
    cases = []
    for name, fold in (("a", "train"), ("b", "validation")):
        for kind, array in (("image", image), ("label", labels)):
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"{name}_{kind}.nii.gz")
        files = {kind: f"trunk/{name}_{kind}.nii.gz" for kind in ("image", "label")}
        cases.append({"case": name, "fold": fold, **files})
    facts = {"name": "trunk", "modality": "CT", "licence": "CC0", "citation": "none"}
    description = {**facts, "labels": {"1": "liver", "2": "spleen"}, "cases": cases}
    (folder / "dataset.json").write_text(json.dumps(description))
    (root / "catalogs").mkdir()
    (root / "catalogs" / "trunk.yaml").write_text("name: trunk\nlayout: dataset_json\nabsent: [brain]\n")
    return root


def _names(pool: object) -> set[str]:
    return {s.name for volumes in pool.groups.values() for volume in volumes for s in volume.structures}  # type: ignore[attr-defined]


def test_a_catalog_adds_to_what_lies_beside_the_data(make_config, organs):
    fields = {"data_root": str(organs), "data_weights": {"trunk": 1.0}}
    assert _names(read_pool(make_config(**fields))) == {"liver", "spleen"}
    better = make_config(**fields, catalogs=str(organs / "catalogs"))
    assert {"liver", "spleen", "brain", "left thalamus"} <= _names(read_pool(better))
    with pytest.raises(ValueError, match="no such folder"):
        read_pool(make_config(**fields, catalogs=str(organs / "catalogues")))
    with pytest.raises(ValueError, match=r"'heads'.*dataset\.json"):
        read_pool(make_config(**{**fields, "data_weights": {"heads": 1.0}}))


def test_a_store_gives_the_structures_of_its_catalog(make_config, organs, tmp_path):
    catalog = load_catalog(organs / "catalogs" / "trunk.yaml", organs / "trunk")
    config = make_config(data_root="nowhere", data_weights={"trunk": 1.0}, store=str(tmp_path / "store"))
    prepare([catalog], config.store, config=StoreConfig(preprocessing=config.model.preprocessing))
    assert {"liver", "spleen", "brain", "left thalamus"} <= _names(read_pool(config))
    assert [len(v) for v in read_pool(config, "validation", skip_empty=True).groups.values()] == [1]
    trainer = setup(config)
    trainer.train_step([trainer.stage.stream[0]])
    trainer.save()
    loaded = PromptableModel.from_pretrained(Path(config.out_dir) / "weights")
    assert [(t.name, t.extent_mm, t.cases) for t in loaded.config.text_terms] == [
        ("liver", 14.0, 1),
        ("spleen", 8.0, 1),
    ]
    assert loaded.config.text_encoder
    assert inherit(str(Path(config.out_dir) / "weights")).terms == loaded.config.text_terms


@pytest.mark.parametrize("address", ["{}/zarr", "memory://bucket/zarr"])
def test_a_run_trains_from_an_export_of_a_store(make_config, organs, tmp_path, address: str):
    pytest.importorskip("zarr")
    config = make_config(data_root="nowhere", data_weights={"trunk": 1.0}, store=address.format(tmp_path))
    catalog = load_catalog(organs / "catalogs" / "trunk.yaml", organs / "trunk")
    prepare([catalog], tmp_path / "store", config=StoreConfig(preprocessing=config.model.preprocessing))
    export_zarr(Store(tmp_path / "store"), config.store)
    trainer = setup(config)
    exported = trainer.train_step([trainer.stage.stream[0]])
    trainer = setup(dataclasses.replace(config, store=str(tmp_path / "store"), out_dir=str(tmp_path / "other")))
    assert trainer.train_step([trainer.stage.stream[0]]) == exported


def test_terms_of_earlier_weights_stay_known(make_config, organs):
    config = make_config(data_root=str(organs), data_weights={"trunk": 1.0})
    described = with_terms(ModelConfig(), read_pool(config), (TextTerm("liver", 200.0, 5), TextTerm("lung", 300.0, 2)))
    assert {t.name: t.extent_mm for t in described.text_terms} == {"liver": 14.0, "lung": 300.0, "spleen": 8.0}


def test_data_without_known_names_teach_no_text(make_config):
    config = make_config()
    pool = read_pool(config)
    nameless = {g: [dataclasses.replace(v, structures=()) for v in volumes] for g, volumes in pool.groups.items()}
    assert with_terms(config.model, TrainingPool(nameless, pool.weights)) == config.model
