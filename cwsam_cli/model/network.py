"""ClassWise-SAM: Segment Anything's encoder and a decoder that knows the classes."""

import math

from torch import Tensor, nn

from cwsam_cli.model.decoder import ClassWiseMaskDecoder
from cwsam_cli.model.encoder import ImageEncoder
from cwsam_cli.model.variants import Architecture


class ClassWiseSam(nn.Module):
    """Image to one plane of logits a class.

    Build it under `torch.device("meta")` for no memory at all; `init_weights` then gives the
    values once the tensors are real.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.image_encoder = ImageEncoder(arch)
        self.mask_decoder = ClassWiseMaskDecoder(arch)
        self.apply(init_weights)
        nn.init.trunc_normal_(self.image_encoder.pos_embed, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image (B, C, S, S), S = inp_size → logits (B, K, S, S) float32."""
        logits = self.mask_decoder(self.image_encoder(image), image)
        return nn.functional.interpolate(logits.float(), size=image.shape[-2:], mode="bilinear", align_corners=False)


def init_weights(module: nn.Module) -> None:
    """Truncated normal for linear layers, fan-in for convolutions, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        fan_in = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.weight.shape[0]
        nn.init.normal_(module.weight, std=math.sqrt(1 / fan_in))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
