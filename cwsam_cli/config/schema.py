"""The configuration of a run, key for key as it stands in YAML.

The keys are those that users of the research code already have in their files.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

from cwsam_cli.config.durations import parse_duration, parse_interval

Loss = Literal["ce", "ce+dice", "ce+iou", "ce+lovasz", "focal"]
Precision = Literal["fp32", "bf16", "fp16"]
Resume = Literal["last", "best"] | int | None


def _positive(where: object, *names: str) -> None:
    for name in names:
        value = getattr(where, name)
        if value is not None and not 0 < value < inf:
            raise ValueError(f"{name} must be above 0 and finite, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderArgs:
    """Where a dataset lies: two folders with files of the same names."""

    root_path_1: str = ""
    """Folder of image tiles."""
    root_path_2: str = ""
    """Folder of label tiles (class codes, 255 = no label)."""
    classes: str | list[str] | None = None
    """A class table's path or shipped name, or a list of names (then code = index);
    null takes the table of the dataset's own `dataset.yaml`."""
    palette: list[list[int]] = field(default_factory=list)
    """One [red, green, blue] a class, for an inline list of names."""
    ignore_bg: bool = False
    """Code 0 counts as unlabelled."""

    def __post_init__(self) -> None:
        for color in self.palette:
            if len(color) != 3 or not all(0 <= part <= 255 for part in color):
                raise ValueError(f"palette: {color} is not [red, green, blue] within 0 and 255")
        if self.palette and isinstance(self.classes, list) and len(self.palette) != len(self.classes):
            raise ValueError(f"palette has {len(self.palette)} colours for {len(self.classes)} classes")


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderDataset:
    """The kind of dataset; there is one."""

    name: Literal["paired-image-folders"] = "paired-image-folders"
    args: FolderArgs = field(default_factory=FolderArgs)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapperArgs:
    """What happens to a tile on its way to the model."""

    inp_size: int | None = None
    """Pixels a side; if given, it must equal `model.args.inp_size`."""
    augment: bool = False
    """Flips, quarter turns and brightness; training crops are random in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """See `WrapperArgs`."""

    args: WrapperArgs = field(default_factory=WrapperArgs)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """One of the three datasets of a run."""

    dataset: FolderDataset = field(default_factory=FolderDataset)
    wrapper: Wrapper = field(default_factory=Wrapper)
    batch_size: int = 1
    """Images at a time, in each process."""
    sampler: Literal["balanced"] | None = None
    """How training tiles are drawn: null takes each once an epoch; `balanced` draws as many, with
    replacement, those with rare classes more often."""

    def __post_init__(self) -> None:
        _positive(self, "batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderMode:
    """Changes to the variant that `model.name` names; what is null stays the variant's."""

    embed_dim: int | None = None
    """Width of a patch token."""
    depth: int | None = None
    """Transformer blocks."""
    num_heads: int | None = None
    """Attention heads; divides embed_dim."""
    global_attn_indexes: list[int] | None = None
    """Blocks that attend to the whole image; the others attend within windows."""
    window_size: int | None = None
    """Patches a side of an attention window."""
    patch_size: int | None = None
    """Pixels a side of a patch; a multiple of 4."""
    prompt_embed_dim: int | None = None
    """Width of the neck and the decoder; a multiple of 16."""
    decoder_mlp_dim: int | None = None
    """Hidden width of the decoder's MLPs."""
    detail_stem: bool | None = None
    """A light convolution stem on the image joins the decoder's upscaled features."""
    moe_start_layer_index: int | None = None
    """First block with experts in place of its MLP."""
    moe_num_expert_groups: int | None = None
    """Groups of experts; 0 leaves the encoder dense."""
    moe_experts_per_group: int | None = None
    moe_k_groups: int | None = None
    """Groups kept for a token."""
    moe_k_experts: int | None = None
    """Experts kept in each of them."""
    moe_noisy_gating: bool | None = None
    """Gaussian noise on the routers' logits while training."""
    moe_decoder_experts: int | None = None
    """Experts in place of the decoder's MLPs; 0 leaves it dense."""
    moe_decoder_k_experts: int | None = None
    adaptor: Literal["none", "adaptor"] | None = None
    """`adaptor`: adapters in every block, Segment Anything's own weights frozen."""
    input_type: Literal["none", "fft"] | None = None
    """`fft`: with adapters, a frequency prompt as well."""
    freq_nums: float | None = None
    """Share of the spectrum's area that the frequency prompt keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpcycleConfig:
    """How new experts are made of a smaller checkpoint's weights."""

    method: Literal["noise", "interpolate", "interpolate+noise", "drop"] = "interpolate+noise"
    """`interpolate` mixes two base experts of the block, `drop` draws a share of the hidden units anew."""
    noise: float = 0.02
    """Standard deviation of the noise, relative to each tensor's own."""
    drop: float = 0.5
    """Share of the hidden units that `drop` draws anew."""

    def __post_init__(self) -> None:
        if self.noise < 0 or not 0 <= self.drop <= 1:
            raise ValueError("noise must not be negative, and drop lies within 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArgs:
    """The model's settings."""

    num_classes: int | None = None
    """Planes of the logits; null takes the class table's length, a number must agree with it."""
    inp_size: int = 512
    """Pixels a side of the model's input."""
    loss: Loss = "ce"
    """Cross-entropy, alone, with a soft Dice, IoU or Lovász loss (`iou` of old files is `ce+iou`), or focal."""
    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes, in the cross-entropy."""
    loss_weight: list[float] | Literal["auto"] | None = None
    """One weight a class, or `auto`: one over the square root of its share of the training labels."""
    balance_loss: float = 1e-2
    """Weight of the experts' load-balancing loss."""
    router_z_loss: float = 1e-3
    """Weight of the routers' z-loss."""
    freeze_base_group: bool = True
    """Where a mixture of two or more groups was grown from a checkpoint, its group 0 does not learn."""
    upcycle: UpcycleConfig = field(default_factory=UpcycleConfig)
    encoder_mode: EncoderMode = field(default_factory=EncoderMode)

    def __post_init__(self) -> None:
        _positive(self, "num_classes", "inp_size")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}, and lies within 0 and 1")
        if min(self.balance_loss, self.router_z_loss) < 0:
            raise ValueError("balance_loss and router_z_loss must not be negative")
        if isinstance(self.loss_weight, list) and not all(0 <= weight < inf for weight in self.loss_weight):
            raise ValueError("loss_weight must be finite and not negative")
        if isinstance(self.loss_weight, list) and not sum(self.loss_weight):
            raise ValueError("loss_weight leaves no class to learn")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Which model."""

    name: str = "sam_vit_b"
    """A variant: sam_tiny, sam_vit_b, sam_vit_l, sam_vit_h, sam_moe_1dot5b, sam_moe_3b, sam_hierarchical_moe_10b."""
    args: ModelArgs = field(default_factory=ModelArgs)


@dataclass(frozen=True, slots=True, kw_only=True)
class LrFactors:
    """Times the learning rate, by part of the model."""

    encoder: float = 1.0
    """Segment Anything's own encoder."""
    adapters: float = 1.0
    """Adapters and frequency prompt."""
    experts: float = 1.0
    routers: float = 1.0
    decoder: float = 1.0
    """But its experts and routers."""

    def __post_init__(self) -> None:
        _positive(self, "encoder", "adapters", "experts", "routers", "decoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerArgs:
    """The optimizer's settings."""

    lr: float = 1e-4
    """Learning rate after warm-up."""
    weight_decay: float = 0.05
    """Decay of weight matrices; norms, biases, tokens and position tables have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    lr_factors: LrFactors = field(default_factory=LrFactors)

    def __post_init__(self) -> None:
        _positive(self, "lr")
        if not 0 <= self.weight_decay < inf or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("weight_decay must not be negative, and betas lie within 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """How the weights learn."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` keeps its two averages in 8 bits: a quarter of the memory."""
    args: OptimizerArgs = field(default_factory=OptimizerArgs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How the steps are made."""

    precision: Precision = "fp32"
    """Number format of the forward pass; weights and optimizer stay in float32. `fp16` scales its loss."""
    use_bf16: bool | None = None
    """The older name of `precision`: true is bf16, false fp32; it wins where both are given."""
    grad_accum_steps: int = 1
    """Batches a step."""
    clip_grad_norm: float | None = 1.0
    """Largest norm of the whole gradient; null does not clip."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises to `lr`; a tenth of the run at most."""
    seed: int = 0
    """Of weights, order and augmentation."""
    workers: int = 2
    """Processes that read tiles, for each process that trains."""
    activation_checkpointing: bool = False
    """Compute each encoder block's activations again in the backward pass instead of keeping them."""
    ema: float | None = None
    """Decay per step of a moving average of the weights that is validated and saved in their place. 0.999 has
    a half-life of 693 steps; early in a run the half-life is a tenth of the steps taken."""
    keep: int | None = None
    """How many of `epoch_save`'s checkpoints stay; null keeps all."""
    skip_bad_tiles: bool = False
    """Read all tiles first, and leave out those that cannot be read; else the first one ends the run."""
    timeout_s: float = 600.0
    """How long a process of several may stand still before the run is ended."""
    time_limit: str | None = None
    """How long the run may take, e.g. `11h30min`; it saves its state and ends before that."""
    save_every: str | None = None
    """How often the state in `last/` is written, e.g. `30min` or `500 steps`, and `model_epoch_last.pth` only
    at the end; null writes both after every validation."""
    patience: int | None = None
    """End the run after so many validations in a row without a better mIoU."""

    def __post_init__(self) -> None:
        _positive(self, "grad_accum_steps", "clip_grad_norm", "keep", "timeout_s", "patience")
        if self.time_limit is not None:
            parse_duration(self.time_limit)
        if self.save_every is not None:
            parse_interval(self.save_every)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}, and lies within 0 and 1")
        if min(self.warmup_steps, self.workers, self.seed) < 0:
            raise ValueError("warmup_steps, workers and seed must not be negative")
        if self.use_bf16 is not None:
            object.__setattr__(self, "precision", "bf16" if self.use_bf16 else "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class FsdpSettings:
    """How several processes share a model out (torch's fully sharded data parallel)."""

    cpu_offload: bool = False
    """Weights, gradients and optimizer stay in the host's memory."""
    reshard_after_forward: bool = True
    """Let a block's gathered weights go after its forward pass, and gather them again for the backward pass."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are summed."""
    shard_experts_evenly: bool = True
    """Cut experts' weights along their hidden width where processes do not divide their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """A part of a run in which only some weights learn."""

    name: Literal["integrate", "adapt", "finetune"]
    """`integrate`: new expert groups and routers; `adapt`: also adapters, prompts and decoder;
    `finetune`: everything but a frozen group 0."""
    epochs: int
    lr_factor: float = 1.0
    """Times the learning rate of the schedule."""

    def __post_init__(self) -> None:
        _positive(self, "epochs", "lr_factor")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """A whole run."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    train_dataset: DatasetConfig = field(default_factory=DatasetConfig)
    val_dataset: DatasetConfig = field(default_factory=DatasetConfig)
    test_dataset: DatasetConfig = field(default_factory=DatasetConfig)
    sam_checkpoint: str | None = None
    """Weights to begin with: a path or URL of a Segment Anything or cwsam checkpoint, or the name
    of an official one: sam_vit_b, sam_vit_l, sam_vit_h. A smaller model is grown into this one."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_min: float = 1e-6
    """Learning rate at the end of the cosine."""
    epoch_max: int | None = None
    """Epochs; null: those of the stages together, or 100 without stages."""
    stages: list[StageConfig] = field(default_factory=list)
    """Parts of the run, one after the other; without any, all that may learn learns."""
    epoch_val: int = 1
    """Validate every so many epochs."""
    epoch_save: int | None = None
    """Also keep a checkpoint every so many epochs; null keeps only `best` and `last`."""
    resume: Resume = None
    """Go on with the run in the output folder: `last` as if it had not been interrupted; `best`, or an
    epoch's number, from that checkpoint's weights, with a new optimizer."""
    work_dir: str = "save"
    """Where runs go that are not given a folder of their own."""
    training_settings: TrainingSettings = field(default_factory=TrainingSettings)
    fsdp_settings: FsdpSettings = field(default_factory=FsdpSettings)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.epoch_max or 0

    def __post_init__(self) -> None:
        _positive(self, "epoch_max", "epoch_val", "epoch_save")
        if isinstance(self.resume, int):
            _positive(self, "resume")
        staged = sum(stage.epochs for stage in self.stages)
        if self.epoch_max is None:
            object.__setattr__(self, "epoch_max", staged or 100)
        if staged and staged != self.epoch_max:
            raise ValueError(f"epoch_max is {self.epoch_max}, but the stages have {staged} epochs together")
        if not 0 <= self.lr_min < inf:
            raise ValueError(f"lr_min is {self.lr_min}")
        if self.lr_min > self.optimizer.args.lr:
            raise ValueError(f"lr_min ({self.lr_min:g}) is above optimizer.args.lr ({self.optimizer.args.lr:g})")
        for name in ("train_dataset", "val_dataset", "test_dataset"):
            size = getattr(self, name).wrapper.args.inp_size
            if size is not None and size != self.model.args.inp_size:
                raise ValueError(
                    f"{name}.wrapper.args.inp_size is {size}, model.args.inp_size is {self.model.args.inp_size}"
                )
