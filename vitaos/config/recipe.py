"""The keys of a recipe and of its optimizer."""

from dataclasses import dataclass
from typing import Any

from vitaos.config.keys import LOCAL, MANY, key


@dataclass
class RecipeConfig:
    """One column of the recipes: optimization, regularization and augmentation. Sources stand in ``configs/recipe``."""

    name: str = key("custom", "name of the recipe, for people", mark=LOCAL)
    epochs: int = key(300, "epochs that the recipe is meant for; the run takes `epochs`", low=1, high=MANY, mark=LOCAL)
    batch_size: int = key(
        256, "images per process that it is meant for; the run takes `batch_size`", low=1, high=MANY, mark=LOCAL
    )
    # optimization
    lr: float = key(5e-4, "peak learning rate, for a global batch of `lr_reference_batch` images", low=0, high=1e30)
    lr_reference_batch: int | None = key(
        512, "the rate is multiplied by global batch / this; null: it is meant as it stands", low=1, high=MANY
    )
    weight_decay: float = key(
        0.05, "decay of matrices; biases, norms, tables and learned scales have none", low=0, high=1e4
    )
    layer_decay: float | None = key(
        None,
        "the rate falls by this factor from each block to the one before it (fine-tuning); null: one rate for all",
        above=0,
        high=1,
        added=True,
    )
    lr_scale: dict[str, float] = key(
        {}, "factors of the rate by pattern of parameter names, as {head.*: 10}; the last that fits counts", added=True
    )
    freeze: list[str] = key(
        [], "what is not trained: patterns of parameter names, or backbone: all but the classifier", added=True
    )
    schedule: str = key(
        "release",
        "release: the warm-up is cut out of the cosine; textbook: the cosine begins when the warm-up ends; or timm's",
        choices=(
            "release",
            "textbook",
            "cosine",
            "tanh",
            "step",
            "multistep",
            "poly",
            "wsd",
            "rsqrt",
            "constant",
        ),
    )
    schedule_unit: str = key("epoch", "how often the rate changes (textbook: each step)", choices=("epoch", "step"))
    decay_epochs: float | None = key(
        None,
        "epochs between two falls (step; null: 90) or of the last phase (wsd, rsqrt; below 1: a share; null: 0.2)",
        above=0,
        high=MANY,
        added=True,
    )
    decay_milestones: list[int] = key(
        [90, 180, 270],
        "epochs at which the rate falls (multistep); with schedule_unit=epoch timm has it one earlier",
        low=1,
        high=MANY,
        added=True,
    )
    decay_rate: float = key(
        0.1, "factor of a fall (step, multistep), or the power (poly)", above=0, high=100, added=True
    )
    warmup_epochs: int = key(5, "epochs of linear warm-up", low=0, high=MANY)
    warmup_lr: float = key(1e-6, "first learning rate of the warm-up", low=0, high=1e30)
    min_lr: float = key(1e-5, "last learning rate of the cosine", low=0, high=1e4)
    scale_warmup_and_floor: bool = key(False, "apply `lr_reference_batch` to `warmup_lr` and `min_lr` as well (Swin)")
    clip: float | None = key(None, "bound on the norm of the gradient; null: none", above=0, high=1e12)
    ema_decay: float | None = key(None, "decay of the running average of the weights; null: no average", low=0, below=1)
    ema_warmup: bool = key(False, "let the average follow faster at first, so that short runs have one")
    # regularization
    drop_path: float = key(0.0, "rate of stochastic depth", low=0, below=1)
    drop_path_spread: str = key(
        "own",
        "own: as timm spreads it over the blocks; linear: from 0 up to the rate; uniform: the rate in each (DeiT III)",
        choices=("own", "linear", "uniform"),
        added=True,
    )
    drop_path_reference_depth: int | None = key(
        None,
        "blocks that the rate is meant for: it is multiplied by the model's / this; null: as it stands",
        low=1,
        high=1000,
        added=True,
    )
    pos_drop: float = key(0.0, "rate of dropout after the position embedding", low=0, below=1)
    proj_drop: float = key(0.0, "rate of dropout after the attention's projection and in the MLP", low=0, below=1)
    smoothing: float = key(0.0, "label smoothing", low=0, below=1)
    loss: str = key(
        "cross_entropy",
        "of the labels: softmax cross-entropy, binary cross-entropy of each class, or AugMix' Jensen-Shannon loss",
        choices=("cross_entropy", "bce", "jsd"),
        added=True,
    )
    bce_threshold: float | None = key(
        None, "bce: targets above this become 1, others 0 (DeiT III: 0); null: as they are", low=0, below=1, added=True
    )
    bce_sum: bool = key(False, "bce: sum over the classes in place of their mean", added=True)
    jsd_views: int = key(3, "jsd: views of each image in a batch, the first without AugMix", low=2, high=10, added=True)
    distillation: str = key(
        "none",
        "what is learned from `teacher`: its first answer (hard) or its probabilities (soft)",
        choices=("none", "hard", "soft"),
        added=True,
    )
    distillation_token: str = key(
        "auto",
        "whose answer is held against the teacher's; auto: the distillation token where the model has one",
        choices=("auto", "distillation", "class"),
        added=True,
    )
    distillation_alpha: float = key(
        0.5, "share of the teacher in the loss; the labels have the rest", low=0, high=1, added=True
    )
    distillation_temperature: float = key(1.0, "temperature of soft distillation", above=0, high=1e4, added=True)
    distillation_reduction: str = key(
        "mean",
        "soft distillation divides by images x classes (mean: DeiT's code) or by images (batchmean: its paper, timm)",
        choices=("mean", "batchmean"),
        added=True,
    )
    # augmentation
    repeats: int = key(1, "repeated augmentation: views of an image among the batches of an epoch", low=1, high=1000)
    crop_scale: list[float] = key(
        [0.08, 1.0], "least and largest share of an image in a crop", above=0, high=1, count=2
    )
    crop_ratio: list[float] = key(
        [3 / 4, 4 / 3], "least and largest width / height of a crop", low=0.01, high=100, count=2
    )
    img_size_schedule: list[list[int]] = key(
        [],
        "side of the training images by epoch, as [[0,128],[100,160],[200,224]]: (first epoch, pixels), the last as "
        "data.img_size, which is also evaluated; none: data.img_size throughout",
        added=True,
    )
    hflip: float = key(0.5, "probability of a mirror image", low=0, high=1)
    randaugment: str | None = key(None, "RandAugment in timm's notation, as rand-m9-mstd0.5-inc1; null: none")
    three_augment: bool = key(False, "gray, solarize or blur (DeiT III) in place of RandAugment")
    auto_augment: str | None = key(
        None,
        "AutoAugment or AugMix in timm's notation (original-mstd0.5, v0, augmix-m5-w4), with augment=timm; null: none",
        added=True,
    )
    color_jitter: float = key(0.0, "strength of color jitter; without effect beside RandAugment", low=0, high=100)
    erasing: float = key(0.0, "probability of random erasing", low=0, high=1)
    erasing_mode: str = key(
        "pixel",
        "filling of the erased: a normal draw a pixel, one a rectangle, or 0",
        choices=("pixel", "rand", "const"),
        added=True,
    )
    erasing_count: int = key(1, "rectangles erased at most in an image", low=1, high=1000, added=True)
    mixup: float = key(0.0, "alpha of mixup; 0: none", low=0, high=1e4)
    cutmix: float = key(0.0, "alpha of CutMix; 0: none", low=0, high=1e4)
    mix_probability: float = key(
        1.0, "share of the batches (mix_mode: images) that mixup or CutMix mixes", low=0, high=1
    )
    mix_switch: float = key(0.5, "share of CutMix among the mixed batches where both are on", low=0, high=1)
    mix_mode: str = key(
        "batch",
        "who shares a draw of mixup or CutMix: all images of a step (batch), the two of a pair (pair), none (elem)",
        choices=("batch", "pair", "elem"),
        added=True,
    )
    mask_mix: float = key(
        0.0,
        "share of the steps that MaskMix or Patch Mixing mixes, by patches, in place of mixup and CutMix",
        low=0,
        high=1,
        added=True,
    )
    mask_mix_patch: int = key(
        56, "side of those patches in pixels; it divides data.img_size", low=1, high=2**14, added=True
    )
    mask_mix_ratio: float = key(
        0.0,
        "share of own patches (Patch Mixing); 0: drawn from Beta(1, 1) in every step (MaskMix)",
        low=0,
        high=1,
        added=True,
    )
    mix_labels: str = key(
        "area",
        "what weighs the two labels of an image mixed by regions: their area, half of it and half the class token's "
        "attention (attention: TransMix), or attention as far as the answer is right (progressive: MixPro's PAL)",
        choices=("area", "attention", "progressive"),
        added=True,
    )
    # evaluation
    eval_crop: float = key(
        0.875, "the shorter side becomes img_size / this, then the center is cut out", low=0.1, high=1
    )


@dataclass
class OptimizerConfig:
    """The optimizer: torch's AdamW, one of NVIDIA apex, or any of timm's by its name."""

    name: str = key(
        "adamw",
        "adamw (torch's fused one), apex_adam, apex_lamb (NVIDIA apex), or a name of timm (lamb, lion, muon, sgd, ...)",
    )
    betas: list[float] | None = key(None, "decays of its averages; null: the optimizer's own", low=0, below=1)
    eps: float | None = key(None, "term for numerical stability; null: the optimizer's own", low=0, high=1)
    fused: bool = key(True, "torch's fused kernels for adamw")
    keywords: dict[str, Any] = key(
        {}, "further keywords of the optimizer's class, as optimizer.keywords.momentum=0.8", added=True
    )
