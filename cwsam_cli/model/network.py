"""ClassWise-SAM: Segment Anything's encoder with a class-wise decoder."""

from torch import Tensor, nn

from cwsam_cli.model.decoder import ClassWiseMaskDecoder
from cwsam_cli.model.encoder import ImageEncoder
from cwsam_cli.model.variants import Architecture


class ClassWiseSam(nn.Module):
    """Network from an image to logits per class.

    Layers use torch's default initialisation, which learned better here than a truncated normal.
    Under `torch.device("meta")` the model takes no memory.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.image_encoder = ImageEncoder(arch)
        self.mask_decoder = ClassWiseMaskDecoder(arch)

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised image (B, C, S, S), S = inp_size, to logits (B, K, S, S) float32."""
        logits = self.mask_decoder(self.image_encoder(image), image)
        return nn.functional.interpolate(logits.float(), size=image.shape[-2:], mode="bilinear", align_corners=False)
