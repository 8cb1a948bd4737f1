"""The rows of the paper's tables 2 and 3, as data.

A method says what each stage minimises, how it samples and how it weighs the classes. Everything
else (lengths, learning rates, coefficients) is the same for all rows and comes from the config, so
that rows are compared on equal terms. Adding a method is adding a row.
"""

from dataclasses import dataclass, replace

from metriclt_jax.errors import InputError


@dataclass(frozen=True)
class SecondStage:
    """What becomes of the head on the frozen backbone (Kang et al. 2020; paper section 2.1).

    Attributes:
        sampler: as of a `Method`.
        weighting: as of a `Method`.
        head: 'retrained'; or 'rescaled' for stage 1's head with a learnt scale for each class; or
            a key of `second_heads.HEAD_RULES`, by which the head is computed without training.
    """

    sampler: str = 'instance'
    weighting: str = 'uniform'
    head: str = 'retrained'


@dataclass(frozen=True)
class Method:
    """One row: stage 1 and, for the two-stage methods, stage 2.

    Attributes:
        classification: classification loss of stage 1, a key of `objectives.CLASSIFICATION_LOSSES`;
            None trains the features by the metric loss alone.
        metric: metric loss of stage 1, a key of `objectives.METRIC_LOSSES`, or None.
        sampler: order of the images, see `data.sampling.epoch_order`.
        weighting: 'uniform', 'balanced' for the weights that `config.weighting` describes, or
            'effective_number'.
        deferred: whether the weights are uniform at first and change late in the stage.
        normalize_weights: whether the loss is divided by the sum of the weights.
        mixing: how images are mixed, a key of `augment.mixing.MIXINGS`, or None.
        bilateral: whether the backbone has two branches, the second of which learns from images
            that a reversed sampler draws (BBN).
        second_stage: None for the one-stage methods.
    """

    classification: str | None = 'cross_entropy'
    metric: str | None = None
    sampler: str = 'instance'
    weighting: str = 'uniform'
    deferred: bool = False
    normalize_weights: bool = True
    mixing: str | None = None
    bilateral: bool = False
    second_stage: SecondStage | None = None


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
    # The field since and around, on equal terms.
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
    # Table 3, where it has further rows.
    'ce_sc': Method(metric='supervised_contrastive'),
    'sc_crw': Method(None, metric='supervised_contrastive', second_stage=CRW),
}


def get_method(name: str) -> Method:
    """The row `name`; raises `InputError` listing the rows when there is none of that name."""
    if name not in METHODS:
        raise InputError(f'method {name!r} is unknown; allowed: {", ".join(METHODS)}')
    return METHODS[name]
