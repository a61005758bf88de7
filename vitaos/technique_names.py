"""The techniques by name, for whoever needs no more than that: the command line's help must not import torch."""

from typing import Final

TECHNIQUE_HELP: Final = {
    "attnscale": "a learned gain for what attention filters out, a head: the paper's AttnScale",
    "featscale": "gains of attention's mean and rest, a channel: the paper's FeatScale; options dc, hf, release_pace",
    "layerscale": "a learned gain a channel of each branch; option init",
    "contranorm": "tokens pushed apart before each norm; options scale, temperature, normalize",
    "neutreno": "the first block's values restored in the later ones; option scale",
    "gfsa": "a polynomial of the attention map; option order",
    "centered_attention": "attention maps without their mean",
    "re_attention": "the heads' maps mixed and normalized anew",
    "shaped_attention": "beta V + alpha A V - gamma mean(V) by head; options identity, map, mean, zero_queries",
    "value_residual": "the first block's values mixed into later ones; options first, own, learned, from_block",
    "laplacian_heads": "V - A V in a share of the heads; option fraction",
    "gated_attention": "a gate on what each head gives, opened by the token; option elementwise",
    "fdam": "low-pass and high-pass part of attention weighed by gains that each token sets; option gain",
    "ggem": "pooling by a generalized mean of learned power; option power",
    "locality": "scores that fall with the distance of two patches; options multiply, gaussians",
    "diversity_loss": "the mean cosine of patch tokens added to the loss; options weight, every_block",
    "contrast_loss": "every last patch token contrasted with its own first one, in the loss; option weight",
    "attention_diversity_loss": "likeness of the queries' attention added to the loss (ADL); options weight, tau",
    "token_merging": "the most similar tokens of each block merged (ToMe); options r, inflection, kept, proportional, "
    "criterion, select, alpha",
    "token_selection": "the tokens that the class token attends to least fused into one (EViT); options keep, fuse, "
    "blocks, shrink_start, shrink_epochs, stages",
    "sigma_reparam": "every weight divided by its largest singular value, times a learned scalar; option keep_norms",
    "tap": "attention given tokens mixed with means of their neighborhoods; option scales",
    "freqscale": "the spatial frequencies of both branches weighed by gains that the image sets (FDAM's other half); "
    "options groups, filters, gain",
}
"""In the order of the registry, :data:`vitaos.techniques.TECHNIQUES`; what each is, for ``--help``."""

TECHNIQUE_NAMES: Final = tuple(TECHNIQUE_HELP)
