"""What a device computes in: bfloat16 only where it is fast."""

from __future__ import annotations

import pytest
import torch

from promptseg.models.numerics import preferred_dtype


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [
        ((6, 1), None, torch.float32),
        ((7, 5), None, torch.float32),  # torch says that it is supported, and emulates it
        ((8, 0), None, torch.bfloat16),
        ((12, 0), None, torch.bfloat16),
        ((9, 0), "6.2", torch.bfloat16),
    ],
)
def test_a_gpu_that_would_emulate_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, expected: torch.dtype
) -> None:
    asked = []

    def capability_of(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return capability

    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability_of)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert preferred_dtype(torch.device("cuda:1")) == expected
    assert asked in ([], [torch.device("cuda:1")])


@pytest.mark.parametrize(
    ("supports", "has_avx512", "has_instructions", "expected"),
    [
        (True, True, True, torch.bfloat16),
        (True, True, False, torch.float32),  # Skylake to Ice Lake
        (True, False, False, torch.bfloat16),  # ARM
        (False, False, False, torch.float32),
    ],
)
def test_a_processor_that_would_emulate_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, supports: bool, has_avx512: bool, has_instructions: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supports)
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: has_avx512)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    assert preferred_dtype(torch.device("cpu")) == expected


def test_other_devices_compute_in_float32() -> None:
    assert preferred_dtype(torch.device("mps")) == torch.float32
