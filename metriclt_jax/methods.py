"""The rows of the paper's tables 2 and 3, as data.

A method says what each stage minimises, how it samples and how it weights the classes. Lengths,
learning rates and coefficients come from the config and are the same for all rows, so that rows are
compared on equal terms. To add a method, add a row.
"""

from dataclasses import dataclass, replace

from metriclt_jax.errors import InputError

# 'balanced' stands for the kind of weights that `config.weighting.balanced` names.
WEIGHTINGS = ('uniform', 'balanced', 'effective_number')


@dataclass(frozen=True)
class SecondStage:
    """What happens to the head on the frozen backbone (Kang et al. 2020; paper section 2.1).

    `head` is 'retrained'; 'rescaled' for stage 1's head with a learned scale for each class; or a
    key of `posthoc_heads.POSTHOC_HEADS`, which computes the head without training.
    """

    sampler: str = 'instance'  # order of the images, see `data.sampling.epoch_order`
    weighting: str = 'uniform'  # one of WEIGHTINGS
    head: str = 'retrained'


@dataclass(frozen=True)
class Method:
    """One row: stage 1 and, for the two-stage methods, stage 2.

    Without `classification`, the metric loss alone trains the features. A `bilateral` backbone has
    two branches, of which the second learns from images that a reversed sampler draws (BBN).
    """

    classification: str | None = 'cross_entropy'  # a key of `objective.CLASSIFICATION_LOSSES`
    metric: str | None = None  # a key of `objective.METRIC_LOSSES`
    sampler: str = 'instance'  # order of the images, see `data.sampling.epoch_order`
    weighting: str = 'uniform'  # one of WEIGHTINGS
    deferred: bool = False  # whether weights are uniform first, `weighting` applies late
    normalize_weights: bool = True  # whether the loss is divided by the sum of the weights
    mixing: str | None = None  # of images, a key of `augment.mixing.MIXINGS`
    bilateral: bool = False
    second_stage: SecondStage | None = None  # none in the one-stage methods


CRW = SecondStage(weighting='balanced')
CRS = SecondStage(sampler='class_balanced')
CB_FOCAL = Method('focal', weighting='effective_number', normalize_weights=False)

METHODS = {
    # Table 2, row by row.
    'ce': Method(),
    'ce_crw': Method(second_stage=CRW),
    'ce_crs': Method(second_stage=CRS),
    'ce_drw': Method(weighting='effective_number', deferred=True),
    'rs': Method(sampler='class_balanced'),
    'rw': Method(weighting='balanced'),
    'ldam': Method('ldam'),
    'ldam_crw': Method('ldam', second_stage=CRW),
    'ldam_drw': Method('ldam', weighting='effective_number', deferred=True),
    'focal': Method('focal'),
    'focal_crw': Method('focal', second_stage=CRW),
    'cb_focal': CB_FOCAL,
    'cb_focal_crw': replace(CB_FOCAL, second_stage=CRW),
    'mixup': Method(mixing='mixup'),
    'mixup_crw': Method(mixing='mixup', second_stage=CRW),
    'cutmix': Method(mixing='cutmix'),
    'cutmix_crw': Method(mixing='cutmix', second_stage=CRW),
    'bbn': Method(bilateral=True),
    'ce_ct_crw': Method(metric='center', second_stage=CRW),
    'ce_tp_crw': Method(metric='triplet', second_stage=CRW),
    'ce_sc_crw': Method(metric='supervised_contrastive', second_stage=CRW),
    # Other methods of the field, on equal terms.
    'logit_adjusted': Method('logit_adjusted'),  # with tau 1 the balanced softmax
    'cosface_crw': Method('cosface', second_stage=CRW),
    'arcface_crw': Method('arcface', second_stage=CRW),
    'remix': Method(mixing='remix'),
    'remix_crw': Method(mixing='remix', second_stage=CRW),
    'balanced_mixup': Method(mixing='balanced_mixup'),
    'ce_bcl_crw': Method(metric='balanced_contrastive', second_stage=CRW),
    'ce_lws': Method(second_stage=SecondStage(sampler='class_balanced', head='rescaled')),
    'ce_tau': Method(second_stage=SecondStage(head='tau_normalized')),
    'ce_ncm': Method(second_stage=SecondStage(head='nearest_class_mean')),
    'ce_la': Method(second_stage=SecondStage(head='adjusted_post_hoc')),
    # Further rows of table 3.
    'ce_sc': Method(metric='supervised_contrastive'),
    'sc_crw': Method(None, metric='supervised_contrastive', second_stage=CRW),
}


def get_method(name: str) -> Method:
    """The row `name`; raises `InputError` for an unknown name."""
    if name not in METHODS:
        raise InputError(f'method {name!r} is unknown; use one of {", ".join(METHODS)}')
    return METHODS[name]
