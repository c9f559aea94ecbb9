"""The recipe's schema: every option, its bounds, default and help text, and nothing else.

``shared.recipe`` reads and checks recipes by it; forms and pages are generated from it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Sampler = Literal[
    "Euler", "Euler a", "Heun", "LMS", "DPM2", "DPM2 a", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE",
    "UniPC", "DDIM", "LCM",
    "Euler Karras", "Heun Karras", "LMS Karras", "DPM2 Karras", "DPM2 a Karras",
    "DPM++ 2M Karras", "DPM++ 2M SDE Karras", "DPM++ SDE Karras", "UniPC Karras",
    "Euler Exponential", "Heun Exponential", "LMS Exponential", "DPM2 Exponential",
    "DPM2 a Exponential", "DPM++ 2M Exponential", "DPM++ 2M SDE Exponential",
    "DPM++ SDE Exponential", "UniPC Exponential",
    "Euler Beta", "Heun Beta", "LMS Beta", "DPM++ 2M Beta", "DPM++ 2M SDE Beta", "DPM++ SDE Beta",
    "Euler SGM Uniform", "DPM++ 2M SGM Uniform",
]  # fmt: skip
Text = Annotated[str, Meta(max_length=10_000)]


class Table(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False
):
    """One ``[section]`` of the recipe."""


class Base(Table, frozen=True, kw_only=True):
    """The model the LoRA is trained on."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            description="A base from `lora-tui model list`, or the path of a diffusers folder or "
            "a .safetensors file. Take one close to the style you want.",
        ),
    ] = "starter"
    family: Annotated[
        Literal["any", "sd1", "sd2", "sdxl", "flux", "flux_schnell"],
        Meta(
            description="The kind of base that this recipe is for: a base of another kind is "
            "refused. Rates and ranks of one rarely suit another."
        ),
    ] = "any"
    quantize: Annotated[
        Literal["none", "fp8", "int8"],
        Meta(
            description="Keep the frozen base in 8 bits while it is trained on, half of its memory "
            "or less: the linear layers and convolutions in the blocks of the denoiser and the "
            "text encoders, each output with a scale of its own. They compute in "
            "training.precision, and take some more time. int8 is nearer to the base than fp8. The "
            "LoRA is one for the base in full, as ever."
        ),
    ] = "none"


class Dataset(Table, frozen=True, kw_only=True):
    """The pictures and how they are shown to the model."""

    name: Annotated[
        str, Meta(description="A dataset from `lora-tui dataset list`.", max_length=200)
    ] = ""
    resolution: Annotated[
        int,
        Meta(
            ge=0,
            le=4096,
            description="Side of the square training crop in pixels, a multiple of 8; 0 takes the "
            "base's own (512 for SD 1.5, 128 for the starter). With buckets their area is at most "
            "its square.",
        ),
    ] = 0
    enable_bucket: Annotated[
        bool,
        Meta(
            description="Wide and tall pictures are trained as such: each is resized to the "
            "nearest of several sizes (buckets), and little is cropped away. Off: all become "
            "squares. `lora-tui dataset buckets` shows them.",
        ),
    ] = False
    min_bucket_reso: Annotated[
        int,
        Meta(
            ge=0,
            le=8192,
            description="The shortest side of a bucket, in pixels; 0: half of the resolution.",
        ),
    ] = 0
    max_bucket_reso: Annotated[
        int,
        Meta(
            ge=0,
            le=8192,
            description="The longest side of a bucket, in pixels; 0: twice the resolution.",
        ),
    ] = 0
    bucket_reso_steps: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="The buckets' sides are multiples of this, itself a multiple of 8; 0: 64, "
            "or an eighth of a resolution below 512.",
        ),
    ] = 0
    bucket_no_upscale: Annotated[
        bool,
        Meta(
            description="No picture is enlarged: a small one has a bucket of its own size, "
            "whatever the bounds.",
        ),
    ] = False
    regularisation: Annotated[
        str,
        Meta(
            max_length=200,
            description="Another dataset, with pictures of the class (dogs, not your dog): as many "
            "as there are pictures come up beside them, which keeps the class as it was. Doubles "
            "the steps.",
        ),
    ] = ""
    alpha_mask: Annotated[
        bool,
        Meta(description="What is transparent in a picture does not count in the loss."),
    ] = False
    mask_folder: Annotated[
        Text,
        Meta(
            description="Folder, in the dataset's or on the daemon's machine, of grey pictures of "
            "the same names and sizes: what is black in them does not count in the loss."
        ),
    ] = ""
    flip: Annotated[
        bool,
        Meta(
            description="Show each picture mirrored half of the time. Leave off where left and "
            "right matter (lettering, a scar on one cheek)."
        ),
    ] = True
    random_crop: Annotated[
        bool,
        Meta(
            description="What hangs over a picture's square or bucket is cropped away at a random "
            "place, not evenly on both sides, so that the ends of a picture are seen too; another "
            "place in each of its versions."
        ),
    ] = False
    color_jitter: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="How far the colours of a version are moved at most: brightness, contrast "
            "and saturation by a factor of 1 ± this each, the hue by a quarter of this in turns "
            "(0.05: 5 % and 4.5°); 0: not at all. Leave off where colours are to be learnt.",
        ),
    ] = 0.0
    versions: Annotated[
        int,
        Meta(
            ge=2,
            le=1000,
            description="With random_crop or color_jitter: so many versions of each picture are "
            "made and cached, and shown in turn; with as many as epochs each is shown once. "
            "Caching, its memory and its disk take so many times as much.",
        ),
    ] = 8
    repeats: Annotated[
        int, Meta(ge=1, le=10_000, description="How often each picture comes up in one epoch.")
    ] = 1
    shuffle_tags: Annotated[
        bool,
        Meta(
            description="Show the comma-separated tags of a caption in another order each time. "
            "For tags, not for sentences."
        ),
    ] = False
    keep_tokens: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="So many tags at a caption's start are neither shuffled nor dropped: the "
            "trigger word.",
        ),
    ] = 0
    tag_dropout: Annotated[
        float, Meta(ge=0, lt=1, description="Chance of each tag to be left out, each time anew.")
    ] = 0.0
    wildcards: Annotated[
        bool,
        Meta(
            description="Choose anew each time where a caption has {red|green}, or __colour__ for "
            "a line of colour.txt in wildcard_folder."
        ),
    ] = False
    wildcard_folder: Annotated[
        Text, Meta(description="Folder, on the daemon's machine, of the wildcards' .txt files.")
    ] = ""
    clip_skip: Annotated[
        int,
        Meta(
            ge=1,
            le=12,
            description="Which of the text encoder's layers is read, from the last: 1, or 2 for "
            "NAI and its kin. SDXL has its own. Paint with the same.",
        ),
    ] = 1
    windows: Annotated[
        int,
        Meta(
            ge=1,
            le=3,
            description="Captions are read in so many windows of 75 tokens; 3 for long ones, at "
            "the price of slower attention.",
        ),
    ] = 1
    joined: Annotated[
        Literal["kohya", "webui"],
        Meta(
            description="How several windows become one: kohya keeps one start and one end for "
            "all, the WebUI one for each. It is noted in the file."
        ),
    ] = "kohya"
    caption_dropout: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Chance of a picture to be shown without its caption. 0.05–0.1 teaches a "
            "style that needs no trigger.",
        ),
    ] = 0.0


class Network(Table, frozen=True, kw_only=True):
    """The LoRA itself."""

    kind: Annotated[
        Literal["lora", "dora", "loha", "lokr"],
        Meta(
            description="lora, which every tool reads alike, and the fastest; dora, which learns "
            "the length of each row apart (A1111 reads it otherwise: see docs/training.md); loha, "
            "a product of two pairs, at a rank of 4 or so; lokr, the smallest files."
        ),
    ] = "lora"
    rank: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            description="Width of the low-rank pair. 4–32; more learns more detail, "
            "and more of your pictures' faults.",
        ),
    ] = 8
    alpha: Annotated[
        float,
        Meta(
            gt=0,
            le=4096,
            description="The LoRA is scaled by alpha / rank. Equal to rank means 1.0.",
        ),
    ] = 8.0
    targets: Annotated[
        list[Literal["to_q", "to_k", "to_v", "to_out.0", "ff", "proj", "conv", "mod"]],
        Meta(
            min_length=1,
            description="Which parts of the denoiser get a LoRA: the attention projections; ff, "
            "the feed-forward layers; proj, what leads into and out of each transformer (with "
            "these, what kohya's LoRA trains); conv, the convolutions and time projections of the "
            "residual blocks (LoCon). FLUX has the first five and mod, its modulation layers.",
        ),
    ] = msgspec.field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    conv_rank: Annotated[
        int, Meta(ge=0, le=1024, description="Rank of the 3 × 3 convolutions' pairs; 0: as rank.")
    ] = 0
    conv_alpha: Annotated[
        float, Meta(ge=0, le=4096, description="Alpha of the 3 × 3 convolutions; 0: as alpha.")
    ] = 0.0
    ranks: Annotated[
        list[Text],
        Meta(
            max_length=200,
            description='Other ranks for some modules, "PATTERN=RANK" or "PATTERN=RANK/ALPHA"; 0 '
            'leaves them out. Patterns are held against the block ("OUT*", "M00", "TEXT") and the '
            'path ("*attn2*"); the first that fits counts.',
        ),
    ] = []
    factor: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Of lokr: the size of its outer matrix, as far as it divides the layer's; "
            "0: near the square root, the smallest file.",
        ),
    ] = 0
    decompose_both: Annotated[
        bool, Meta(description="Of lokr: both of its matrices are low-rank, not only the inner.")
    ] = False
    rslora: Annotated[
        bool,
        Meta(
            description="Scale by alpha / √rank instead, so that a high rank learns as fast as a "
            "low one (https://arxiv.org/abs/2312.03732)."
        ),
    ] = False
    dropout: Annotated[
        float,
        Meta(ge=0, lt=1, description="Share of the down product's numbers set to zero each step."),
    ] = 0.0
    rank_dropout: Annotated[
        float,
        Meta(ge=0, lt=1, description="Share of the ranks left out for a picture in a step."),
    ] = 0.0
    module_dropout: Annotated[
        float, Meta(ge=0, lt=1, description="Chance of a module's LoRA to be left out for a step.")
    ] = 0.0
    max_norm: Annotated[
        float,
        Meta(
            ge=0,
            description="After each step a module's change of its weights longer than this is "
            "shortened to it; 0: never. 1 guards against burning.",
        ),
    ] = 0.0
    start: Annotated[
        Text,
        Meta(
            description="A LoRA to begin from, by its name in the library or its path on the "
            "daemon's machine, in any tool's names, of the same kind and at most the same rank; "
            "empty: a fresh one."
        ),
    ] = ""


class Optimizer(Table, frozen=True, kw_only=True):
    """What turns gradients into steps, and its settings."""

    kind: Annotated[
        Literal["adamw", "adamw8bit", "adafactor", "lion", "prodigy", "came", "schedule_free"],
        Meta(
            description="adamw; adamw8bit, which is AdamW in 32 bits where bitsandbytes cannot be "
            "loaded; adafactor, with a rate of your own; lion, at a third to a tenth of AdamW's "
            "rate; prodigy, which finds its rate (learning_rate = 1); came; schedule_free, an "
            "AdamW that keeps its average, at a constant rate two or more times AdamW's."
        ),
    ] = "adamw"
    learning_rate: Annotated[
        float, Meta(gt=0, le=1, description="Step size. 1e-4 is the lesson's; Prodigy's is 1.")
    ] = 1e-4
    text_encoder_rate: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Step size of a LoRA on the text encoder too; 0: it stays as it is, and "
            "captions are read once. 5e-5 is common.",
        ),
    ] = 0.0
    rates: Annotated[
        list[Text],
        Meta(
            max_length=200,
            description='Some modules learn faster or slower, "PATTERN=FACTOR", such as "IN*=0.5"; '
            "0 leaves them out. Patterns are those of network.ranks.",
        ),
    ] = []
    lora_plus: Annotated[
        float,
        Meta(
            ge=1,
            le=1000,
            description="LoRA+: the up matrices learn so many times faster than the down ones "
            "(https://arxiv.org/abs/2402.12354). 16 is the paper's.",
        ),
    ] = 1.0
    weight_decay: Annotated[
        float, Meta(ge=0, le=1, description="How fast weights shrink by themselves.")
    ] = 1e-2
    beta1: Annotated[float, Meta(ge=0, lt=1, description="The first momentum.")] = 0.9
    beta2: Annotated[
        float, Meta(ge=0, lt=1, description="The second momentum. Lion's own is 0.99.")
    ] = 0.999
    epsilon: Annotated[
        float, Meta(gt=0, le=1, description="Keeps AdamW's kind and Prodigy from dividing by 0.")
    ] = 1e-8
    d_coef: Annotated[
        float, Meta(gt=0, le=100, description="Prodigy: the rate it finds is multiplied by this.")
    ] = 1.0
    bias_correction: Annotated[
        bool, Meta(description="Prodigy: correct the moments' bias at the start, as AdamW does.")
    ] = False
    safeguard_warmup: Annotated[
        bool, Meta(description="Prodigy: keep a warm-up from raising the rate that is found.")
    ] = False
    max_grad_norm: Annotated[
        float, Meta(ge=0, description="Gradients longer than this are shortened to it; 0: never.")
    ] = 1.0


class Schedule(Table, frozen=True, kw_only=True):
    """How the learning rate moves."""

    kind: Annotated[
        Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "rex"],
        Meta(
            description="Constant, or falling in a line, half a cosine, several of them, "
            "(1 - progress) to a power, or slowly and then fast (REX, "
            "https://arxiv.org/abs/2107.04197)."
        ),
    ] = "constant"
    warmup_steps: Annotated[
        int, Meta(ge=0, description="Steps over which the rate first rises from zero.")
    ] = 0
    cycles: Annotated[
        int, Meta(ge=1, le=1000, description="Of cosine_with_restarts: how many.")
    ] = 1
    power: Annotated[float, Meta(gt=0, le=100, description="Of polynomial.")] = 1.0
    floor: Annotated[
        float,
        Meta(ge=0, lt=1, description="Share of the learning rate that it falls to, not to zero."),
    ] = 0.0


class Noise(Table, frozen=True, kw_only=True):
    """The noise that the base learns to take away."""

    offset: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Noise that is the same over a whole channel, added: lets pictures become "
            "darker or brighter as a whole. 0.05–0.1.",
        ),
    ] = 0.0
    multires_iterations: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="Pyramid noise: so many coarser layers of noise are added; 0: none. "
            "6–10; another way to what offset does.",
        ),
    ] = 0
    multires_discount: Annotated[
        float, Meta(gt=0, lt=1, description="How much weaker each coarser layer is.")
    ] = 0.3
    input_perturbation: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="More noise in the input than is asked back, which guards against drift "
            "(https://arxiv.org/abs/2301.11706). 0.1.",
        ),
    ] = 0.0
    min_timestep: Annotated[
        int, Meta(ge=0, lt=1000, description="The least noise trained at: 0 is nearly none.")
    ] = 0
    max_timestep: Annotated[
        int,
        Meta(ge=1, le=1000, description="Timesteps from here on are not trained; 1000: all are."),
    ] = 1000
    zero_terminal_snr: Annotated[
        bool,
        Meta(
            description="Rescale the noise schedule to end in pure noise, so that pictures can be "
            "all dark or bright (https://arxiv.org/abs/2305.08891). For bases that predict v; "
            "those that are marked so have it anyway."
        ),
    ] = False
    density: Annotated[
        Literal["uniform", "logit_normal"],
        Meta(
            description="Which timesteps come up more often: none; or those about density_mean "
            "(https://arxiv.org/abs/2403.03206)."
        ),
    ] = "uniform"
    shift: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="Of bases that learn a flow (FLUX): by how much the noise levels that come "
            "up move to the noisier end; 1: not, 3 is usual at 1024 pixels, 0: as the base does it "
            "for the picture's size (https://arxiv.org/abs/2403.03206, 5.3.2).",
        ),
    ] = 1.0
    density_mean: Annotated[
        float,
        Meta(
            ge=-10,
            le=10,
            description="Of logit_normal: 0 is the middle, below there is less noise (details), "
            "above more (composition).",
        ),
    ] = 0.0
    density_deviation: Annotated[
        float, Meta(gt=0, le=10, description="Of logit_normal: how far about the mean.")
    ] = 1.0


class Loss(Table, frozen=True, kw_only=True):
    """How an error counts."""

    kind: Annotated[
        Literal["l2", "l1", "huber", "smooth_l1"],
        Meta(description="l2 is the textbook's; huber and smooth_l1 mind outliers less."),
    ] = "l2"
    huber_c: Annotated[
        float,
        Meta(gt=0, le=10, description="Of huber and smooth_l1: errors above this count by size."),
    ] = 0.1
    huber_schedule: Annotated[
        Literal["snr", "exponential", "constant"],
        Meta(description="How huber_c sinks, from 1, as the noise grows; constant: it does not."),
    ] = "snr"
    weighting: Annotated[
        Literal["none", "min_snr", "debiased"],
        Meta(
            description="What timesteps count: alike; less where there is little noise "
            "(https://arxiv.org/abs/2303.09556); or in inverse to the signal "
            "(https://arxiv.org/abs/2310.08442)."
        ),
    ] = "none"
    min_snr_gamma: Annotated[
        float, Meta(gt=0, le=1000, description="Of min_snr: where the weight begins to sink.")
    ] = 5.0
    prior_weight: Annotated[
        float, Meta(ge=0, le=1000, description="What a picture for regularisation counts.")
    ] = 1.0
    unmasked_weight: Annotated[
        float, Meta(ge=0, le=1, description="What the masked-out part of a picture still counts.")
    ] = 0.0
    preservation: Annotated[
        float,
        Meta(
            ge=0,
            le=1000,
            description="Output preservation: how much it counts that on class_caption the LoRA "
            "says what the base says; 0: nothing. 1 keeps the class without pictures of it, at "
            "more than twice the time.",
        ),
    ] = 0.0
    class_caption: Annotated[
        Text, Meta(description='Of preservation: what the subject is one of, such as "a dog".')
    ] = ""


class Training(Table, frozen=True, kw_only=True):
    """How long, how much at a time, and with which randomness."""

    seed: Annotated[int, Meta(ge=0, lt=2**62, description="All randomness follows from it.")] = 42
    batch_size: Annotated[int, Meta(ge=1, le=1024, description="Pictures in one step.")] = 1
    accumulation: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            description="So many batches make one step: the same as a larger batch, in less "
            "memory.",
        ),
    ] = 1
    num_processes: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Data-parallel: so many processes, one a GPU, each take batch_size "
            "pictures of a step: the same as a larger batch, in less time. Where there are fewer "
            "GPUs, each does the work of several: the same curve, slower.",
        ),
    ] = 1
    checkpointing: Annotated[
        bool,
        Meta(
            description="Gradient checkpointing: keep few of the UNet's activations and compute "
            "them again: half as slow again, or more, in a fraction of the memory. The result is "
            "the same."
        ),
    ] = False
    compile: Annotated[
        bool,
        Meta(
            description="torch.compile: make kernels of the denoiser for each size of batch before "
            "the first step. Minutes the first time, seconds when they are kept from a run before; "
            "then each step is quicker. Needs a C++ compiler, on a GPU Triton."
        ),
    ] = False
    ema: Annotated[
        float,
        Meta(
            ge=0,
            lt=1,
            description="Keep and sample a running average of the LoRA that forgets at this rate, "
            "0.999 or so; 0: the LoRA itself.",
        ),
    ] = 0.0
    guidance: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="What a base that guidance was distilled into (FLUX.1 dev) is told while "
            "it learns; 1 is usual.",
        ),
    ] = 1.0
    epochs: Annotated[int, Meta(ge=1, le=100_000, description="Passes over the dataset.")] = 10
    max_steps: Annotated[
        int, Meta(ge=0, description="Stop after this many steps whatever the epochs say; 0: no.")
    ] = 0
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Meta(
            description="Number format of the frozen base. auto: bf16 where the GPU has it, else "
            "fp16; fp32 on a CPU. The LoRA itself is always trained in fp32."
        ),
    ] = "auto"


class Save(Table, frozen=True, kw_only=True):
    """Which LoRA files are kept, and how often the run can be taken up again."""

    every_epochs: Annotated[
        int, Meta(ge=0, description="Keep a LoRA each N epochs; 0: only the last.")
    ] = 0
    every_steps: Annotated[int, Meta(ge=0, description="Keep a LoRA each N steps; 0: no.")] = 0
    keep_last: Annotated[
        int,
        Meta(
            ge=0,
            description="Of these LoRAs only the last so many stay, beside the run's own and those "
            "saved by hand; 0: all. `lora-tui run which` chooses among those that are there.",
        ),
    ] = 0
    resume_seconds: Annotated[
        float,
        Meta(gt=0, le=86_400, description="Seconds between resume states (at most this is lost)."),
    ] = 30.0


class Sample(Table, frozen=True, kw_only=True):
    """Pictures made while training, always from the same seed."""

    prompts: Annotated[
        list[Text], Meta(max_length=64, description="One picture each; none: no samples.")
    ] = []
    negative: Annotated[Text, Meta(description="What the samples should not show.")] = ""
    every_epochs: Annotated[int, Meta(ge=0, description="Sample each N epochs; 0: no.")] = 1
    every_steps: Annotated[int, Meta(ge=0, description="Sample each N steps; 0: no.")] = 0
    at_first: Annotated[
        bool, Meta(description="And once before the first step: what it was like without.")
    ] = True
    sampler: Annotated[Sampler, Meta(description="As WebUI users name them.")] = "Euler"
    steps: Annotated[int, Meta(ge=1, le=1000, description="Denoising steps.")] = 20
    cfg: Annotated[float, Meta(ge=0, le=100, description="Guidance (CFG) scale.")] = 7.0
    seed: Annotated[int, Meta(ge=0, lt=2**62, description="Seed of the first sample.")] = 1025


class Evaluation(Table, frozen=True, kw_only=True):
    """What `lora-tui run which` judges the run's checkpoints by."""

    held_out: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            description="Share of the pictures that is kept back from training, near-duplicates "
            "together and at least three, to tell learning from over-fitting. 0.1–0.2; 0: none. "
            "Of ten pictures or fewer none is.",
        ),
    ] = 0.0
    pictures: Annotated[
        list[Text],
        Meta(
            max_length=10_000,
            description="Names of the dataset's pictures to keep back, instead of a share.",
        ),
    ] = []
    unrelated: Annotated[
        list[Text],
        Meta(
            min_length=1,
            max_length=32,
            description="Prompts that have nothing to do with the LoRA: how far it moves what the "
            "base makes of them is its drift.",
        ),
    ] = msgspec.field(
        default_factory=lambda: [
            "a photograph of a city street",
            "a bowl of fruit on a table",
            "a portrait of an old man",
            "mountains behind a lake at sunset",
            "a wooden chair in an empty room",
            "a red car parked in the rain",
        ]
    )


class Output(Table, frozen=True, kw_only=True):
    """The file you came for."""

    name: Annotated[
        str, Meta(max_length=120, description="Name of the LoRA file; empty: the run's name.")
    ] = ""
    trigger: Annotated[
        str, Meta(max_length=200, description="The word that calls it, kept in the metadata.")
    ] = ""


class Recipe(Table, frozen=True, kw_only=True):
    """A whole training run."""

    title: Annotated[str, Meta(max_length=200, description="One line to know it by.")] = ""
    base: Base = Base()
    dataset: Dataset = Dataset()
    network: Network = Network()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    noise: Noise = Noise()
    loss: Loss = Loss()
    training: Training = Training()
    save: Save = Save()
    sample: Sample = Sample()
    evaluation: Evaluation = Evaluation()
    output: Output = Output()
