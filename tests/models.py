"""The zoo: small models with random weights, in the usual idioms, that every pass and target is tested on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from edgecc.ir.signature import Dim
from tests.zoo import audio, convnets, dense_prediction, hugging_face, idioms, mobile, vision_transformers

Inputs = Callable[..., tuple[Any, ...] | dict[str, Any]]
Axes = Mapping[int, Dim]

BATCH, SEQ, FRAMES, WAVE = Dim("batch", 1, 8), Dim("seq", 1, 32), Dim("frames", 1, 32), Dim("samples", 1, 64)


@dataclass(frozen=True)
class Model:
    """A model of the zoo.

    `inputs(generator, **sizes)` makes example inputs, a tuple for positional and a dict for keyword arguments; `sizes`
    are those of the dynamic dimensions by name. `dims` are the dynamic axes of each input by its flat name, empty where
    there is no dynamic variant. `small`: below 3 million multiply-accumulates, cheap enough for an emulator.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    dims: Mapping[str, Axes] = field(default_factory=dict)
    small: bool = True

    def example(self, seed: int = 0, **sizes: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of `forward`."""
        made = self.inputs(torch.Generator().manual_seed(seed), **sizes)
        return ((), made) if isinstance(made, dict) else (made, {})

    def sizes(self) -> dict[str, Dim]:
        """The dynamic dimensions by name."""
        return {dim.name: dim for axes in self.dims.values() for dim in axes.values()}


def build(name: str, seed: int = 0, **sizes: int) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A model in eval mode with random weights, and its positional and keyword arguments, all drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ZOO[name].build().eval()
    randomize(model, torch.Generator().manual_seed(seed + 1))
    return model, *ZOO[name].example(seed + 2, **sizes)


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Give every constant parameter and every batch-norm statistic a random value.

    Fresh norms, positions and layer scales are all ones or zeros: folding them wrongly would go unseen.
    """
    with torch.no_grad():
        for parameter in dict.fromkeys(model.parameters()):
            if parameter.numel() > 1 and parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0.0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)


def _image(generator: torch.Generator, batch: int = 2, *, side: int = 32, channels: int = 3) -> tuple[torch.Tensor]:
    return (torch.randn(batch, channels, side, side, generator=generator),)


def _rows(generator: torch.Generator, batch: int = 2, *, shape: tuple[int, ...]) -> tuple[torch.Tensor]:
    return (torch.randn(batch, *shape, generator=generator),)


def _tokens(generator: torch.Generator, batch: int = 2, seq: int = 10, *, vocabulary: int = 97) -> tuple[torch.Tensor]:
    return (torch.randint(1, vocabulary, (batch, seq), generator=generator),)


def _sentences(generator: torch.Generator, batch: int = 2, seq: int = 10, *, types: bool = False) -> dict[str, torch.Tensor]:
    """Token ids whose padding grows from row to row; every row has at least one token."""
    (ids,) = _tokens(generator, batch, seq)
    padding = (torch.arange(batch) * 3).clamp(max=seq - 1)
    mask = (torch.arange(seq)[None] < seq - padding[:, None]).long()
    sentences = {"input_ids": ids * mask, "attention_mask": mask}
    return {**sentences, "token_type_ids": torch.zeros_like(ids)} if types else sentences


def _spectrogram(
    generator: torch.Generator, batch: int = 2, frames: int = 12, *, bins: int = 16, bins_first: bool = False
) -> tuple[torch.Tensor]:
    shape = (batch, bins, frames) if bins_first else (batch, frames, bins)
    return (torch.randn(shape, generator=generator),)


def _wave(generator: torch.Generator, batch: int = 2, samples: int = 40) -> tuple[torch.Tensor]:
    return (torch.randn(batch, samples, generator=generator),)


def _stream(generator: torch.Generator, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, batch, 16, generator=generator), torch.randn(1, batch, 24, generator=generator)


def _picture_and_text(generator: torch.Generator, batch: int = 2, seq: int = 5) -> tuple[dict[str, Any]]:
    (image,) = _image(generator, batch, side=16)
    (ids,) = _tokens(generator, batch, seq, vocabulary=41)
    return ({"image": image, "text": {"ids": ids, "weight": torch.rand(batch, seq, generator=generator) + 0.1}},)


def _features(generator: torch.Generator, batch: int = 2) -> dict[str, torch.Tensor]:
    return {
        "numbers": torch.randn(batch, 5, generator=generator),
        "categories": torch.randint(0, 7, (batch, 3), generator=generator),
    }


def _state(generator: torch.Generator, batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return 2 * torch.randn(batch, 10, generator=generator), torch.randint(0, 4, (batch,), generator=generator)


def _observation(generator: torch.Generator, batch: int = 2) -> dict[str, Any]:
    parts = {name: torch.randn(batch, 3, generator=generator) for name in ("position", "velocity", "goal")}
    return {"observation": {"position": parts["position"], "velocity": parts["velocity"]}, "gain": 0.5, "goal": parts["goal"]}


_X = {"x": {0: BATCH}}
_TOKENS = {"tokens": {0: BATCH, 1: SEQ}}
_IDS = {"input_ids": {0: BATCH, 1: SEQ}}
_SENTENCES = {**_IDS, "attention_mask": {0: BATCH, 1: SEQ}}

_MODELS = (
    Model("mobilenet_v2", mobile.MobileNetV2, _image, _X),
    Model("mobilenet_v3", mobile.MobileNetV3, _image, _X),
    Model("hard_swish_by_hand", mobile.HandWrittenHardMobileNet, _image, _X),
    Model("efficientnet", mobile.EfficientNet, _image, _X),
    Model("shufflenet_v2", mobile.ShuffleNetV2, _image, _X),
    Model("ghostnet", mobile.GhostNet, _image, _X),
    Model("resnet_bottleneck", convnets.ResNetBottleneck, _image, _X),
    Model("preact_resnet", convnets.PreActivationResNet, _image, _X),
    Model("densenet", convnets.DenseNet, _image, _X),
    Model("convnext", convnets.ConvNeXt, _image, _X),
    Model("inception_rep", convnets.InceptionRep, _image, _X, small=False),
    Model("group_instance_norm", convnets.GroupInstanceNet, _image, _X),
    Model("unet", dense_prediction.UNet, _image, _X, small=False),
    Model("ssd", dense_prediction.SSD, _image, _X),
    Model("yolo_head", dense_prediction.YOLOHead, _image, _X),
    Model("distribution_box_head", dense_prediction.DistributionBoxHead, _image, _X),
    Model("feature_pyramid", dense_prediction.FeaturePyramid, _image, _X),
    Model("super_resolution", dense_prediction.SuperResolution, partial(_image, side=24, channels=1), _X),
    Model("conv_autoencoder", dense_prediction.ConvAutoencoder, _image, _X),
    Model("atrous_segmenter", dense_prediction.AtrousSegmenter, _image, _X),
    Model("vit", vision_transformers.ViT, _image, _X),
    Model("vit_torch_layers", vision_transformers.TorchViT, _image, _X),
    Model("swin", vision_transformers.Swin, _image, _X),
    Model("mlp_mixer", vision_transformers.MLPMixer, _image, _X),
    Model("conv_transformer", vision_transformers.ConvTransformer, _image, _X),
    Model("bert_sdpa", partial(hugging_face.bert, "sdpa"), _sentences, _SENTENCES),
    Model("bert_eager", partial(hugging_face.bert, "eager"), _sentences, _SENTENCES),
    Model(
        "sentence_bert", hugging_face.sentence_bert, partial(_sentences, types=True), {**_SENTENCES, "token_type_ids": {0: BATCH, 1: SEQ}}
    ),
    Model("gpt2_sdpa", partial(hugging_face.gpt2, "sdpa"), _tokens, _IDS),
    Model("gpt2_eager", partial(hugging_face.gpt2, "eager"), _tokens, _IDS),
    Model("llama_tied", partial(hugging_face.llama, True, "sdpa"), _tokens, _IDS),
    Model("llama_untied", partial(hugging_face.llama, False, "eager"), _tokens, _IDS),
    Model("qwen2", partial(hugging_face.qwen2, "eager"), _tokens, _IDS),
    Model("t5_encoder", hugging_face.t5_encoder, _sentences, _SENTENCES),
    Model(
        "whisper_sdpa",
        partial(hugging_face.whisper_encoder, "sdpa"),
        partial(_spectrogram, frames=48, bins_first=True),
        {"input_features": {0: BATCH}},
    ),
    Model(
        "whisper_eager",
        partial(hugging_face.whisper_encoder, "eager"),
        partial(_spectrogram, frames=48, bins_first=True),
        {"input_features": {0: BATCH}},
    ),
    Model("lstm_spotter", audio.LSTMSpotter, _spectrogram, _X),
    Model("gru_spotter", audio.GRUSpotter, _stream, {"x": {1: BATCH}, "state": {1: BATCH}}),
    Model("bilstm_tagger", audio.BiLSTMTagger, partial(_tokens, vocabulary=61), {"tokens": {0: BATCH}}),
    Model("gru_cell_unrolled", audio.UnrolledGRU, partial(_rows, shape=(5, 8)), _X),
    Model("wavenet", audio.WaveNet, _wave, {"wave": {0: BATCH, 1: WAVE}}),
    Model("tcn", audio.TCN, partial(_spectrogram, bins_first=True), {"x": {0: BATCH, 2: Dim("frames", 4, 32)}}),
    Model("ds_cnn", audio.DSCNN, partial(_rows, shape=(1, 25, 10)), _X),
    Model("conformer", audio.Conformer, partial(_spectrogram, bins=24), {"x": {0: BATCH, 1: FRAMES}}),
    Model("spelled_out_transformer", idioms.SpelledOutTransformer, partial(_tokens, vocabulary=53), _TOKENS),
    Model("rotary_decoder", idioms.RotaryDecoder, partial(_tokens, vocabulary=53), _TOKENS),
    Model(
        "dict_in_dict_out",
        idioms.TwoTower,
        _picture_and_text,
        {"batch_image": {0: BATCH}, "batch_text_ids": {0: BATCH, 1: SEQ}, "batch_text_weight": {0: BATCH, 1: SEQ}},
    ),
    Model(
        "keyword_inputs",
        idioms.DictMLP,
        _observation,
        {"observation_position": {0: BATCH}, "observation_velocity": {0: BATCH}, "goal": {0: BATCH}},
    ),
    Model("shared_weights", idioms.SharedWeights, partial(_rows, shape=(24,)), _X),
    Model("residual_mlp", idioms.ResidualMLP, partial(_rows, shape=(20,)), _X),
    Model("in_place", idioms.InPlace, partial(_rows, shape=(8,)), _X),
    Model("in_place_conv", idioms.InPlaceConvNet, _image, _X),
    Model("recommender", idioms.Recommender, _features, {"numbers": {0: BATCH}, "categories": {0: BATCH}}),
    Model("controller", idioms.Controller, _state, {"state": {0: BATCH}, "mode": {0: BATCH}}),
)

ZOO: Mapping[str, Model] = {model.name: model for model in _MODELS}
