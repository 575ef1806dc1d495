"""ClassWise-SAM: Segment Anything's encoder and a decoder that knows the classes."""

from torch import Tensor, nn

from cwsam_cli.model.decoder import ClassWiseMaskDecoder
from cwsam_cli.model.encoder import ImageEncoder
from cwsam_cli.model.variants import Architecture


class ClassWiseSam(nn.Module):
    """Image to one plane of logits a class.

    Layers start as torch starts them, which learns better here than a truncated normal.
    Built under `torch.device("meta")` it takes no memory at all.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.image_encoder = ImageEncoder(arch)
        self.mask_decoder = ClassWiseMaskDecoder(arch)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised image (B, C, S, S), S = inp_size → logits (B, K, S, S) float32."""
        logits = self.mask_decoder(self.image_encoder(image), image)
        return nn.functional.interpolate(logits.float(), size=image.shape[-2:], mode="bilinear", align_corners=False)
