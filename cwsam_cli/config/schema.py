"""The configuration of a training run: one field per YAML key.

The keys are those of the research code, so existing files keep working.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Literal

from cwsam_cli.config.datasets import DatasetConfig as DatasetConfig
from cwsam_cli.config.datasets import FolderArgs as FolderArgs
from cwsam_cli.config.datasets import FolderDataset as FolderDataset
from cwsam_cli.config.datasets import Wrapper as Wrapper
from cwsam_cli.config.datasets import WrapperArgs as WrapperArgs
from cwsam_cli.config.datasets import require_positive
from cwsam_cli.config.durations import parse_duration, parse_interval

Variant = Literal[
    "sam_tiny",
    "sam_vit_b",
    "sam_vit_l",
    "sam_vit_h",
    "sam_moe_1dot5b",
    "sam_moe_3b",
    "sam_hierarchical_moe_10b",
]
Loss = Literal["ce", "ce+dice", "ce+iou", "ce+lovasz", "focal"]
Precision = Literal["fp32", "bf16", "fp16"]
Resume = Literal["last", "best"] | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderMode:
    """Changes to the variant in `model.name`; null keeps the variant's value."""

    embed_dim: int | None = None
    """Width of a patch token."""
    depth: int | None = None
    """Transformer blocks."""
    num_heads: int | None = None
    """Attention heads; embed_dim must be a multiple of it."""
    global_attn_indexes: list[int] | None = None
    """Numbers of the blocks that attend to the whole image; the others attend within windows."""
    window_size: int | None = None
    """Side of an attention window in patches."""
    patch_size: int | None = None
    """Side of a patch in pixels; a multiple of 4."""
    prompt_embed_dim: int | None = None
    """Width of the neck and the decoder; a multiple of 16."""
    decoder_mlp_dim: int | None = None
    """Hidden width of the decoder's MLPs."""
    detail_stem: bool | None = None
    """If true, a small convolution stem on the image is added to the decoder's upscaled features."""
    moe_start_layer_index: int | None = None
    """Number of the first block with experts instead of an MLP."""
    moe_num_expert_groups: int | None = None
    """Groups of experts; 0 leaves the encoder dense."""
    moe_experts_per_group: int | None = None
    """Experts in each group."""
    moe_k_groups: int | None = None
    """Groups that serve a token."""
    moe_k_experts: int | None = None
    """Experts per group that serve a token."""
    moe_noisy_gating: bool | None = None
    """If true, the routers' logits get Gaussian noise during training."""
    moe_decoder_experts: int | None = None
    """Experts instead of the decoder's MLPs; 0 leaves the decoder dense."""
    moe_decoder_k_experts: int | None = None
    """Experts of the decoder that serve a token."""
    adaptor: Literal["none", "adaptor"] | None = None
    """`adaptor`: every block has adapters, and Segment Anything's own weights are frozen."""
    input_type: Literal["none", "fft"] | None = None
    """`fft`: adapters also receive a frequency prompt."""
    freq_nums: float | None = None
    """Share of the spectrum's area that the frequency prompt keeps, 0-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpcycleConfig:
    """How new experts are made from the weights of a smaller checkpoint."""

    method: Literal["noise", "interpolate", "interpolate+noise"] = "interpolate+noise"
    """`noise` adds noise, `interpolate` mixes two base experts of the block."""
    noise: float = 0.02
    """Standard deviation of the noise, relative to that of each tensor."""

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise ValueError("noise must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArgs:
    """The model's settings."""

    num_classes: int | None = None
    """Number of classes. null: that of the class table. A number must agree with it."""
    inp_size: int = 512
    """Side of the model's input in pixels."""
    loss: Loss = "ce"
    """Cross-entropy (`ce`), cross-entropy plus a soft Dice, IoU or Lovász loss, or focal loss. `iou` in old files
    means `ce+iou`."""
    label_smoothing: float = 0.0
    """Share of each label that the cross-entropy spreads over all classes, 0-1."""
    loss_weight: list[float] | Literal["auto"] | None = None
    """One weight per class, or `auto`: 1 / √(the class's share of the training labels)."""
    balance_loss: float = 1e-2
    """Weight of the loss that balances the load of the experts."""
    router_z_loss: float = 1e-3
    """Weight of the routers' z-loss."""
    freeze_base_group: bool = True
    """If true, group 0 does not learn in a model of two or more groups that was grown from a checkpoint."""
    upcycle: UpcycleConfig = field(default_factory=UpcycleConfig)
    encoder_mode: EncoderMode = field(default_factory=EncoderMode)

    def __post_init__(self) -> None:
        require_positive(self, "num_classes", "inp_size")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, not {self.label_smoothing}")
        if min(self.balance_loss, self.router_z_loss) < 0:
            raise ValueError("balance_loss and router_z_loss must not be negative")
        if isinstance(self.loss_weight, list) and not all(0 <= weight < inf for weight in self.loss_weight):
            raise ValueError("loss_weight must be finite and not negative")
        if isinstance(self.loss_weight, list) and not sum(self.loss_weight):
            raise ValueError("loss_weight needs at least one weight above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The model: a variant and its settings."""

    name: Variant = "sam_vit_b"
    """Variant: sam_tiny, sam_vit_b, sam_vit_l, sam_vit_h, sam_moe_1dot5b, sam_moe_3b, sam_hierarchical_moe_10b."""
    args: ModelArgs = field(default_factory=ModelArgs)


@dataclass(frozen=True, slots=True, kw_only=True)
class LrFactors:
    """Factors of the learning rate for parts of the model."""

    encoder: float = 1.0
    """Segment Anything's own encoder."""
    adapters: float = 1.0
    """Adapters and frequency prompt."""
    experts: float = 1.0
    routers: float = 1.0
    decoder: float = 1.0
    """The decoder without its experts and routers."""

    def __post_init__(self) -> None:
        require_positive(self, "encoder", "adapters", "experts", "routers", "decoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerArgs:
    """The optimizer's settings."""

    lr: float = 1e-4
    """Learning rate after warm-up."""
    weight_decay: float = 0.05
    """Weight decay of matrices; norms, biases, tokens and position tables have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    lr_factors: LrFactors = field(default_factory=LrFactors)

    def __post_init__(self) -> None:
        require_positive(self, "lr")
        if not 0 <= self.weight_decay < inf or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("weight_decay must not be negative, and betas must be at least 0 and below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """The optimizer."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` keeps its two averages in 8 bits, with a quarter of the memory."""
    args: OptimizerArgs = field(default_factory=OptimizerArgs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """Settings of the training steps and of the run."""

    precision: Precision = "fp32"
    """Number format of the forward pass. Weights and optimizer stay in float32. `fp16` scales the loss."""
    use_bf16: bool | None = None
    """Older form of `precision`: true is bf16, false is fp32. If both are given, this one is used."""
    grad_accum_steps: int = 1
    """Batches per step; their gradients are added up."""
    clip_grad_norm: float | None = 1.0
    """Largest norm of the whole gradient; null: no clipping."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises to `lr`; at most a tenth of the run."""
    seed: int = 0
    """Seed of weights, order of the tiles and augmentation."""
    workers: int = 2
    """Processes that read tiles, per training process."""
    activation_checkpointing: bool = False
    """If true, each encoder block's activations are computed again in the backward pass instead of kept:
    less memory, more time."""
    compile: bool = False
    """If true, torch.compile compiles the encoder's blocks and the decoder, which takes minutes at the start. Only one
    process can do so. Experts of the decoder are not compiled, nor any experts with `activation_checkpointing`."""
    ema: float | None = None
    """Decay per step of a moving average of the weights. The average is validated and saved instead of the
    weights. 0.999 has a half-life of 693 steps. Early in a run the half-life is a tenth of the steps so far."""
    keep: int | None = None
    """Number of `epoch_save`'s checkpoints that are kept, the newest ones; null keeps all."""
    skip_bad_tiles: bool = False
    """If true, all tiles are read before training, and unreadable ones are left out. If false, an unreadable tile
    ends the run."""
    timeout_s: float = 600.0
    """Seconds that one of several processes may stand still before the run ends."""
    time_limit: str | None = None
    """Longest time of the run, e.g. `11h30min`. The run saves its state and ends before this time is over."""
    save_every: str | None = None
    """How often `last/` is written, e.g. `30min` or `500 steps`; `model_epoch_last.pth` is then written only at
    the end. null: both are written after every validation."""
    patience: int | None = None
    """Number of validations in a row without a better mIoU after which the run ends; null: no limit."""

    def __post_init__(self) -> None:
        require_positive(self, "grad_accum_steps", "clip_grad_norm", "keep", "timeout_s", "patience")
        if self.time_limit is not None:
            parse_duration(self.time_limit)
        if self.save_every is not None:
            parse_interval(self.save_every)
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be above 0 and below 1, not {self.ema}")
        if min(self.warmup_steps, self.workers, self.seed) < 0:
            raise ValueError("warmup_steps, workers and seed must not be negative")
        if self.use_bf16 is not None:
            object.__setattr__(self, "precision", "bf16" if self.use_bf16 else "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class FsdpSettings:
    """How several processes share a model (torch's fully sharded data parallel, FSDP2)."""

    cpu_offload: bool = False
    """If true, weights, gradients and optimizer stay in the host's memory."""
    reshard_after_forward: bool = True
    """If true, a block's gathered weights are freed after each pass and gathered again for the next one: less
    memory, more communication. If false, they are gathered once per step, also with `grad_accum_steps`. Gradients
    of experts are then summed once per step too, if `expert_parallel` is above 1."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are summed over the processes."""
    shard_experts_evenly: bool = True
    """If true, experts' weights are divided along their hidden width where the number of experts is not a
    multiple of the number of processes."""
    expert_parallel: int | Literal["auto"] = 1
    """Number of processes over which the experts of each group are distributed. Each process keeps its experts
    whole, and tokens travel instead of weights. It must divide the number of processes and of experts per group.
    `auto`: the largest such number up to 16 whose processes are on one machine."""

    def __post_init__(self) -> None:
        if self.expert_parallel != "auto":
            require_positive(self, "expert_parallel")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage of a run, in which only some weights learn."""

    name: Literal["integrate", "adapt", "finetune"]
    """The weights that learn. `integrate`: new expert groups and routers. `adapt`: also adapters, prompts and
    decoder. `finetune`: everything except a frozen group 0."""
    epochs: int
    """Number of epochs of the stage."""
    lr_factor: float = 1.0
    """Factor of the schedule's learning rate."""

    def __post_init__(self) -> None:
        require_positive(self, "epochs", "lr_factor")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The whole configuration of a run."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    train_dataset: DatasetConfig = field(default_factory=DatasetConfig)
    val_dataset: DatasetConfig = field(default_factory=DatasetConfig)
    test_dataset: DatasetConfig = field(default_factory=DatasetConfig)
    sam_checkpoint: str | None = None
    """Weights to begin with: path or URL of a checkpoint of Segment Anything, ClassWise-SAM-Adapter or cwsam, or the
    name of an official file: sam_vit_b, sam_vit_l, sam_vit_h. A smaller model is grown into this one."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_min: float = 1e-6
    """Learning rate at the end of the cosine schedule."""
    epoch_max: int | None = None
    """Number of epochs. null: the sum of the stages, or 100 without stages."""
    stages: list[StageConfig] = field(default_factory=list)
    """Stages of the run, in order; without stages, all weights that are not frozen learn."""
    epoch_val: int = 1
    """Number of epochs between validations."""
    epoch_save: int | None = None
    """Number of epochs between checkpoints that are kept; null: only `best` and `last` are kept."""
    resume: Resume = None
    """Continue the run in the output folder. `last`: as if it had not been interrupted. `best` or an epoch's
    number: from that checkpoint's weights, with a new optimizer."""
    work_dir: str = "save"
    """Folder of runs without -o."""
    training_settings: TrainingSettings = field(default_factory=TrainingSettings)
    fsdp_settings: FsdpSettings = field(default_factory=FsdpSettings)

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole run."""
        return self.epoch_max or 0

    def __post_init__(self) -> None:
        require_positive(self, "epoch_max", "epoch_val", "epoch_save")
        if isinstance(self.resume, int):
            require_positive(self, "resume")
        staged = sum(stage.epochs for stage in self.stages)
        if self.epoch_max is None:
            object.__setattr__(self, "epoch_max", staged or 100)
        if staged and staged != self.epoch_max:
            raise ValueError(f"epoch_max is {self.epoch_max}, but the stages have {staged} epochs in total")
        if not 0 <= self.lr_min < inf:
            raise ValueError(f"lr_min must be at least 0 and finite, not {self.lr_min}")
        if self.lr_min > self.optimizer.args.lr:
            raise ValueError(f"lr_min ({self.lr_min:g}) is above optimizer.args.lr ({self.optimizer.args.lr:g})")
        for name in ("val_dataset", "test_dataset"):
            if getattr(self, name).fold is not None:
                raise ValueError(
                    f"{name}.fold has no effect; train_dataset.fold names the fold that is validation, and test tiles "
                    "are in no fold"
                )
        for name in ("train_dataset", "val_dataset", "test_dataset"):
            size = getattr(self, name).wrapper.args.inp_size
            if size is not None and size != self.model.args.inp_size:
                raise ValueError(
                    f"{name}.wrapper.args.inp_size is {size}, model.args.inp_size is {self.model.args.inp_size}"
                )
