"""The presets of the archives against the released code, setting by setting: no parameter of a recipe is left out.

Each parameter stands in one of three tables of its recipe: RELEASED with the value and where the released code has it;
OTHERWISE where ours is another, and why; OURS where the release has no such thing, or another archive, machine or
control is what it is about. A second test says what the printed presets change, by the section of the paper.
"""

import pytest

from reidkit import parameters, runs
from reidkit.studies.runner import recipe

EVERYWHERE = {  # of all recipes, no release has these
    "preset": (None, "its name"),
    "seed": (0, "of this project's own random numbers"),
    "city_preset": ("quick", "of drawn people"),
    "city_seed": (0, "of drawn people"),
    "knobs": ("", "of drawn people"),
    "data_root": ("", "where the reader's copies are"),
    "precision": ("auto", "the releases compute in float32; here the card decides"),
}

# ----------------------------------------------------------- 02 and 03: Ranked_Person_ReID, configs/softmax_ranked.yml

SUPERVISED = {
    "dataset": ({"market1501": "market1501", "dukemtmc": "dukemtmc"}, "DATASETS.NAMES: market1501 or dukemtmc"),
    "weights": ("imagenet", "MODEL.PRETRAIN_CHOICE"),
    "height": (256, "INPUT.SIZE_TRAIN, SIZE_TEST"),
    "width": (128, "INPUT.SIZE_TRAIN, SIZE_TEST"),
    "resize": ("bilinear", "data/transforms/build.py: T.Resize as it comes"),
    "last_stride": (1, "config/defaults.py: MODEL.LAST_STRIDE"),
    "last_relu": (True, "modeling/backbones: every block ends with one"),
    "neck": ("bn", "modeling/baseline.py: bottleneck, a BatchNorm1d without shift"),
    "sampler": ("pk", "DATALOADER.SAMPLER softmax_rank: data/samplers/triplet_sampler.py"),
    "p": (16, "SOLVER.IMS_PER_BATCH 64, of NUM_INSTANCE images each"),
    "k": (4, "DATALOADER.NUM_INSTANCE"),
    "epochs": (120, "SOLVER.MAX_EPOCHS"),
    "steps_per_epoch": (0, "engine/trainer.py: an epoch is a pass"),
    "schedule": ("steps", "SOLVER.STEPS 40 and 70, GAMMA 0.1, WARMUP_ITERS 10, WARMUP_FACTOR 0.01"),
    "lr_index_offset": (0, "solver/lr_scheduler.py under the PyTorch of its readme (D2.11)"),
    "lr": (3.5e-4, "SOLVER.BASE_LR, BIAS_LR_FACTOR 1"),
    "weight_decay": (5e-4, "SOLVER.WEIGHT_DECAY and WEIGHT_DECAY_BIAS"),
    "label_smoothing": (0.1, "MODEL.IF_LABELSMOOTH: layers/reanked_loss.py, epsilon"),
    "erase": (0.5, "INPUT.RE_PROB"),
}
RANKING = SUPERVISED | {
    "backbone": ("resnet50_ibn_a", "config/defaults.py: MODEL.NAME"),
    "classify": (True, "layers/__init__.py: softmax_rank"),
    "ranking": ("lin", "MODEL.METRIC_LOSS_TYPE ranked_loss"),
    "rank_weight": (0.4, "config/defaults.py: SOLVER.WEIGHT"),
    "ranked": ("embedding", "modeling/baseline.py returns the feature behind the bottleneck"),
    "radius": (0.7, "config/defaults.py: SOLVER.ALPHA 2.0 less MARGIN_RANK 1.3"),
    "temperature": (1.0, "config/defaults.py: SOLVER.TVAL"),
    "weighting": ("code", "layers/reanked_loss.py: an_weight (D2.1)"),
    "detach_weights": (False, "layers/reanked_loss.py: an_weight stays in the graph (D2.2)"),
}

# ------------------------------------------------------------------------------ 04: SLS_ReID, sls_train.py --use_dense

SLSR = {
    "dataset": (
        {"market1501": "market1501", "dukemtmc": "dukemtmc", "cuhk03": "cuhk03", "viper": "viper_{seed}"},
        "data_dir; of VIPeR one half, here ten (D1.13)",
    ),
    "protocol": (
        {"market1501": "market", "dukemtmc": "market", "cuhk03": "cuhk03", "viper": "viper"},
        "evaluate.py, eval_cuhk03.py, eval_viper.py",
    ),
    "weights": ("imagenet", "model.py: pretrained"),
    "height": (288, "transform_train_list, and test.py"),
    "width": (144, "transform_train_list, and test.py"),
    "resize": ("bicubic", "transform_train_list: interpolation 3"),
    "crop_height": (256, "transform_train_list"),
    "crop_width": (128, "transform_train_list"),
    "backbone": ("densenet121", "--use_dense"),
    "last_stride": (2, "model.py: torchvision's networks as they are"),
    "last_relu": (True, "model.py: torchvision's ResNet"),
    "dense_relu": (False, "model.py: torchvision's features, pooled (D1.12)"),
    "hidden": (512, "model.py: num_bottleneck"),
    "noise_layer": ("bottleneck", "model.py: ClassBlock (D1.3)"),
    "batch_size": (32, "--batchsize"),
    "epochs": (130, "num_epochs"),
    "steps_per_epoch": (0, "an epoch is a pass"),
    "optimizer": ("sgd", "optim.SGD, momentum 0.9, nesterov"),
    "lr": (0.05, "of fc and classifier"),
    "backbone_rate": (0.2, "0.01 of the others"),
    "weight_decay": (5e-4, "optimizer_ft"),
    "schedule": ("steps", "StepLR, step_size 40, gamma 0.1"),
    "erase": (0.8, "--erasing_p"),
    "train_all": (True, "re_index.py: train_new is made of train_all, which holds the images of val"),
    "keep": ("best", "train_model: best_model_wts, by the images of val (here at the size of the test)"),
    "flip_test": (True, "test.py: extract_feature"),
    "cluster_backbone": ("resnet50", "clustering/clustering.py: avg_pool of Keras's ResNet50"),
    "cluster_net": ("ce", "clustering/clustering.py: a checkpoint softmax_pretrain (D1.18)"),
    "clusters": (3, "n_clusters"),
    "min_images_in_cluster": (1, "prepare_gan_data.py: the filter for five is commented out (D1.2)"),
    "extra": ("generated", "dcganDataset"),
    "label_smoothing": (0.0, "SLSloss: one-hot for real images"),
    "amount": (
        {"market1501": 12_000, "dukemtmc": 12_000, "cuhk03": 18_000, "viper": 8_000},
        "generated_image_size 8000 of VIPeR; the others by the paper, Tables 2 and 4 to 7",
    ),
    "gan_height": (128, "DCGAN/main.py: output_height"),
    "gan_width": (128, "DCGAN/main.py: output_width, the same if not given"),
    "gan_channels": (64, "DCGAN/model.py: gf_dim, df_dim"),
    "gan_stages": (4, "DCGAN/model.py: 8 to 128 pixels"),
    "gan_init": ("whole", "DCGAN/README.md: --parent_checkpoint (D1.8)"),
    "gan_batch": (64, "DCGAN/main.py: batch_size"),
    "gan_epochs": (30, "DCGAN/main.py: epoch"),
    "gan_steps": (0, "DCGAN/model.py: an epoch is a pass"),
    "gan_lr": (2e-4, "DCGAN/main.py: learning_rate, beta1 0.5"),
}

# ----------------------------------------------------- 05: Feature_Space_Regularization_..._One_Sample, run.sh, run.py

ONE_SHOT = {
    "dataset": ({"market1501": "market1501", "dukemtmc": "dukemtmc"}, "run.sh: dataset"),
    "weights": ("imagenet", "reid/models/resnet.py: pretrained"),
    "height": (256, "reid/eug.py: data_height"),
    "width": (128, "reid/eug.py: data_width"),
    "resize": ("bilinear", "reid/utils/data/transforms.py: RectScale, RandomSizedRectCrop"),
    "backbone": ("resnet50", "reid/models/end2end.py"),
    "last_stride": (2, "reid/models/resnet.py: torchvision's"),
    "last_relu": (True, "reid/models/resnet.py: torchvision's"),
    "split_seed": (0, "examples/*_init_-1.0.pickle: the published draw"),
    "head": ("fsr", "reid/models/end2end.py: the 1x1 convolution"),
    "hidden": (0, "run.sh: fea 2048"),
    "dropout": (0.5, "reid/eug.py: dropout"),
    "batch_size": (16, "run.sh: batchSize"),
    "epochs": (70, "run.sh: epochs"),
    "ce_only_epochs": (15, "run.sh: stepSize 55 of 70"),
    "steps_per_epoch": (0, "reid/trainers.py: an epoch is a pass over the labelled images"),
    "optimizer": ("sgd", "reid/eug.py: SGD, nesterov"),
    "momentum": (0.5, "run.sh: momentum"),
    "lr": (0.1, "run.py: init_lr"),
    "backbone_rate": (0.1, "reid/eug.py: lr_mult"),
    "weight_decay": (5e-4, "reid/eug.py: weight_decay"),
    "schedule": ("steps", "reid/eug.py: adjust_lr"),
    "rect_crop": (1.0, "reid/eug.py: RandomSizedRectCrop; here cut from the resized image"),
    "ce_weight": (0.8, "run.sh: lambda"),
    "exclusive_share": (0.8, "reid/trainers.py: u_re_ratio"),
    "exclusive_temperature": (10.0, "reid/eug.py: t"),
    "fsr_reading": ("vector", "reid/dist_regularization_loss.py (D0.1)"),
    "fsr_reduction": ("sum", "reid/dist_regularization_loss.py (D0.1)"),
    "fsr_squared": (False, "reid/dist_regularization_loss.py"),
    "labels": ("joint", "reid/eug.py: estimate_label"),
    "k": (3, "reid/eug.py: cross_knearst_dist, k"),
    "mu": (0.5, "reid/eug.py: 0.5 of either distance"),
    "k_includes_self": (True, "reid/eug.py: u_u_index from 0, l_u_index to k - 1 (D0.3)"),
    "label_class_pool": ("U", "reid/eug.py: dists_l_u (D0.4)"),
    "jd_squared": (True, "reid/eug.py: euclidean_dist takes no root (D0.5)"),
    "class_dist": ("pairs", "reid/eug.py: the sum over pairs by k ** 2 (D0.6)"),
    "enlarging_factor": (0.1, "run.sh: EF 10"),
    "stop_rule": ("fsr", "run.py: total_step (D0.9)"),
    "final_full_step": (False, "run.py: the step that has no unlabelled image left crashes (D0.9)"),
}

# --------------------------------------------------------------------------------------- 06: MAR, runs/debug/args.yaml

MAR = {
    "dataset": ({"market1501": "market1501", "market1501_alone": "market1501", "dukemtmc": "dukemtmc"}, "target"),
    "height": (384, "img_size"),
    "width": (128, "img_size"),
    "resize": ("bicubic", "data/construct_dataset_*.m: imresize as it comes"),
    "backbone": ("resnet50", "src/trainers.py: net"),
    "last_stride": (2, "src/resnet.py: layer4"),
    "last_relu": (False, "src/resnet.py: is_last (D3.9)"),
    "source_batch": (184, "batch_size 368, half of it"),
    "target_batch": (184, "batch_size 368, half of it"),
    "epochs": (20, "epochs"),
    "steps_per_epoch": (0, "src/trainers.py: an epoch is a pass over the source"),
    "optimizer": ("sgd", "src/trainers.py: SGD, momentum 0.9"),
    "schedule": ("steps", "src/trainers.py: after 5/8 and 7/8 of the epochs"),
    "lr": (2e-4, "lr"),
    "weight_decay": (2.5e-2, "wd"),
    "pad": (4.67, "padding 7 at height 384"),
    "erase": (0.0, "src/utils.py: none among the transforms"),
    "target": (True, "src/trainers.py: train_epoch"),
    "mining": ("multilabels", "src/utils.py: DiscriminativeLoss"),
    "mining_ratio": (0.005, "mining_ratio"),
    "mining_from": (1, "src/trainers.py: train_epoch, epoch > 0"),
    "threshold_momentum": (0.9, "src/utils.py: DiscriminativeLoss"),
    "memory_momentum": (0.9, "src/trainers.py: multilabel_memory (D3.10)"),
    "camera_momentum": (0.9632, "src/utils.py: MultilabelLoss, 1 - batch_size / 10000 (D3.3)"),
    "lambda1": (2e-4, "lamb_1"),
    "camera_reduction": ("mean", "src/utils.py: MultilabelLoss (D3.2)"),
    "lambda2": (50.0, "lamb_2"),
    "beta": (0.2, "beta"),
    "margin": (1.0, "margin"),
    "joint_reading": ("code", "src/utils.py: JointLoss (D3.1)"),
}

RELEASED = {"03": RANKING, "04": SLSR, "05": ONE_SHOT, "06": MAR}
RELEASED["02"] = SUPERVISED | {"backbone": ("resnet50", "Luo et al. 2019, section 3; the readme's bag of tricks")}
OTHERWISE = {  # ours, the release's, and where or why
    "02": {"triplet_weight": (0.0, "ranked_loss", "the ranking loss is what 03 adds; variant triplet")},
    "03": {},
    "04": {"target": ("cluster", "uniform", "SLSloss is LSRO (D1.1); the release is variant lsro of every preset")},
    "05": {},
    "06": {
        "weights": ("imagenet", "pretrained_MSMT17.pth", "with that file: -p stage_one file -p weights FILE"),
        "stage_one": ("train", "pretrain_path", "how that file was made is not said; ours is made here"),
        "source_dataset": (
            {"market1501": "msmt17", "dukemtmc": "msmt17", "market1501_alone": "auxiliary"},
            "MSMT17", "market1501_alone is for who has no MSMT17",
        ),
    },
}  # fmt: skip
OURS = {
    "02": {
        "triplet_margin": (0.3, "of variant triplet"),
        "warmup": (0.15, 'of schedule "cosine", which no archive has'),
    },
    "03": {
        "warmup": (0.15, 'of schedule "cosine", which no archive has'),
        "other_dataset": ({"market1501": "dukemtmc", "dukemtmc": "market1501"}, "Table VI"),
        "domains": ("home", "Table VI"),
        "alpha": (1.2, "of variant ranked_list"),
        "margin": (0.3, "of variants ranked_list and triplet"),
    },
    "04": {
        "noise_on": ("all", "of variants noise_layer"),
        "amount_factor": (1.0, "of Table 2"),
        "gan_precision": ("auto", "the release computes in float32; here the card decides"),
    },
    "05": {},
    "06": {
        "source_preset": ({"market1501": "quick", "dukemtmc": "quick", "market1501_alone": "world"}, "of drawn people"),
        "source_seed": (0, "of drawn people"),
        "stage_one_epochs": (60, "nobody says how stage 1 was trained"),
        "stage_one_lr": (1e-2, "nobody says how stage 1 was trained"),
        "stage_one_weight_decay": (5e-4, "nobody says how stage 1 was trained; not the 2.5e-2 of stage 2"),
        "baseline_split": (0.5, "of variant baseline (D3.11)"),
    },
}
FAMILIES = {  # the presets of released recipes
    "02": ("market1501",),
    "03": ("market1501", "dukemtmc"),
    "04": ("market1501", "dukemtmc", "cuhk03", "viper"),
    "05": ("market1501", "dukemtmc"),
    "06": ("market1501", "market1501_alone", "dukemtmc"),
}
ARCHIVES = [(number, name) for number, names in FAMILIES.items() for name in names]


def values_of(number, name):
    return recipe(number).Parameters.of(parameters.preset(number, name)).values()


@pytest.mark.parametrize("number", FAMILIES)
def test_every_parameter_is_in_one_table_and_says_where_it_is_from(number):
    tables = [EVERYWHERE, RELEASED[number], OTHERWISE[number], OURS[number]]
    names = [name for table in tables for name in table]
    assert sorted(names) == sorted(recipe(number).Parameters().values())
    assert all(row[-1] for table in tables for row in table.values())


@pytest.mark.parametrize(("number", "name"), ARCHIVES)
def test_the_presets_of_the_archives_are_the_released_recipe(number, name):
    found = values_of(number, name)
    for table in (EVERYWHERE, RELEASED[number], OTHERWISE[number], OURS[number]):
        for setting, (value, *_) in table.items():
            wanted = value.get(name, "nothing") if isinstance(value, dict) else value
            assert setting == "preset" or found[setting] == wanted, setting


PRINTED = {  # what papers print otherwise: in which preset, the settings and where; everything else is the release's
    "03": {
        "market1501": {"weighting": ("eq3", "Equation 3 (D2.1)")},
        "dukemtmc": {"weighting": ("eq3", "Equation 3 (D2.1)")},
    },
    "04": {
        "market1501": {
            "schedule": ("inv", "section 5.2: decays with every batch, its numbers lost (D1.4)"),
            "gan_init": ("scratch", "section 4.1: a GAN for each cluster, no other (D1.8)"),
            "keep": ("last", "no choice of an epoch is printed (D1.10)"),
        },
        "market1501_resnet50": {
            "schedule": ("inv", "section 5.2: decays with every batch, its numbers lost (D1.4)"),
            "gan_init": ("scratch", "section 4.1: a GAN for each cluster, no other (D1.8)"),
            "keep": ("last", "no choice of an epoch is printed (D1.10)"),
            "height": (256, "section 5.2: other sizes for ResNet, lost in our text; commented out in the code (D1.5)"),
            "width": (256, "as height"),
            "crop_height": (224, "as height"),
            "crop_width": (224, "as height"),
        },
    },
    "05": {
        name: {
            "k_includes_self": (False, "section III D: the K nearest neighbours of a sample (D0.3)"),
            "jd_squared": (False, "section III D: Euclidean distance (D0.5)"),
        }
        for name in ("market1501", "dukemtmc")
    },
    "06": {
        name: {
            "joint_reading": ("eq8", "Equation 8 (D3.1)"),
            "camera_reduction": ("sum", "the equation of L_CML (D3.2)"),
        }
        for name in ("market1501", "dukemtmc")
    },
}


@pytest.mark.parametrize(("number", "name"), [(number, name) for number, rows in PRINTED.items() for name in rows])
def test_a_printed_preset_differs_from_the_released_one_where_the_paper_does(number, name):
    released, printed = values_of(number, name), values_of(number, f"{name}_printed")
    changed = {setting: value for setting, value in printed.items() if value != released[setting]}
    assert changed == {"preset": f"{name}_printed"} | {key: value for key, (value, _) in PRINTED[number][name].items()}


def test_every_printed_preset_is_in_the_table():
    files = {path.stem for path in parameters.PRESETS.glob("*_printed.yml")}
    assert files == {f"{number}.{name}_printed" for number, rows in PRINTED.items() for name in rows}


def test_the_other_scripts_of_slsr_differ_where_the_released_ones_do():
    """train.py, each script with ResNet-50; the same transforms are released for both networks."""
    slsr, without = values_of("04", "market1501"), values_of("04", "market1501_baseline")
    script = {"epochs": 60, "lr": 0.1, "backbone_rate": 0.1, "erase": 0.0, "keep": "last"}
    assert without == slsr | script | {"preset": "market1501_baseline"}
    for name in ("market1501", "market1501_baseline", "dukemtmc", "cuhk03", "viper"):
        whole = f"{name}_resnet50" if name != "market1501_baseline" else "market1501_resnet50_baseline"
        assert values_of("04", whole) == values_of("04", name) | {"backbone": "resnet50", "preset": whole}


def test_every_preset_of_an_archive_is_looked_at():
    """By this file, or it stands on one that is; 01 trains with the preset of 02."""
    for path in parameters.PRESETS.glob("*.yml"):
        number, name = path.stem.split(".")
        if number in FAMILIES and parameters.preset(number, name).get("weights") == "imagenet":
            assert name in FAMILIES[number] or name.startswith(FAMILIES[number]), path.stem
    trained = recipe("02").Parameters.of(parameters.preset("02", "market1501") | parameters.preset("01", "market1501"))
    assert trained.values() == values_of("02", "market1501") and runs.NOTEBOOKS["02"] == "baseline"
