"""How data sets, backbones, methods and metrics are called in print."""

METHOD_TITLES = {
    'ce': 'CE',
    'ce_crw': 'CE → cRW',
    'ce_crs': 'CE → cRS',
    'ce_drw': 'CE-DRW',
    'rs': 'RS',
    'rw': 'RW',
    'ldam': 'LDAM',
    'ldam_crw': 'LDAM → cRW',
    'ldam_drw': 'LDAM-DRW',
    'focal': 'Focal',
    'focal_crw': 'Focal → cRW',
    'cb_focal': 'CB-Focal',
    'cb_focal_crw': 'CB-Focal → cRW',
    'mixup': 'Mixup',
    'mixup_crw': 'Mixup → cRW',
    'cutmix': 'CutMix',
    'cutmix_crw': 'CutMix → cRW',
    'bbn': 'BBN',
    'ce_ct_crw': 'CE+CT → cRW',
    'ce_tp_crw': 'CE+TP → cRW',
    'ce_sc_crw': 'CE+SC → cRW',
    'ce_sc': 'CE+SC',
    'sc_crw': 'SC → cRW',
    'ce_lws': 'CE → LWS',
    'ce_tau': 'CE → τ-norm',
    'ce_ncm': 'CE → NCM',
    'ce_la': 'CE → LA',
    'logit_adjusted': 'Logit-adjusted',
    'cosface_crw': 'CosFace → cRW',
    'arcface_crw': 'ArcFace → cRW',
    'remix': 'Remix',
    'remix_crw': 'Remix → cRW',
    'balanced_mixup': 'Balanced-MixUp',
    'ce_bcl_crw': 'CE+BCL → cRW',
}
DATASET_TITLES = {
    'skin7': 'Skin7',
    'xray9': 'X-ray9',
    'pathmnist_lt': 'PathMNIST-LT',
    'flower_lt': 'Flower-LT',
    'dogs_lt': 'Stanford Dogs-LT',
    'digits_lt': 'Digits-LT',
}
MODEL_TITLES = {
    'resnet18': 'ResNet18',
    'resnet50': 'ResNet50',
    'densenet121': 'DenseNet121',
    'mobilenet_v2': 'MobileNetV2',
}
METRIC_TITLES = {
    'mcr_all': 'All',
    'mcr_major': 'Major',
    'mcr_medium': 'Medium',
    'mcr_minor': 'Minor',
    'accuracy': 'Accuracy',
    'macro_f1': 'Macro F1',
    'macro_auroc': 'Macro AUROC',
}
METRIC_LOSS_TITLES = {
    'center': 'center loss',
    'triplet': 'triplet loss',
    'supervised_contrastive': 'supervised contrastive loss',
    'balanced_contrastive': 'balanced contrastive loss',
}


def method_title(name: str) -> str:
    """The paper's name of a row; a row that it does not have keeps its own name.

    >>> method_title('ce_sc_crw'), method_title('poly1_crw')
    ('CE+SC → cRW', 'poly1_crw')
    """
    return METHOD_TITLES.get(name, name)


def dataset_title(name: str) -> str:
    """The printed name of a data set, or the name itself."""
    return DATASET_TITLES.get(name, name)


def model_title(name: str) -> str:
    """The printed name of a backbone, or the name itself."""
    return MODEL_TITLES.get(name, name)


def metric_title(name: str) -> str:
    """The heading of a column: the paper's words for mean class recalls."""
    return METRIC_TITLES.get(name, name)
