"""Networks by name, from every source, without a network connection."""

# ruff: noqa: PLC0415 (model libraries load only in the tests that need them)

from __future__ import annotations

import json
import re
from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from torchsaliency import explain
from torchsaliency.core.layer import Layer
from torchsaliency.data import sample_photos
from torchsaliency.errors import CheckpointError, OptionError
from torchsaliency.zoo import DEFAULT_MODEL, imagenet, imagenet_classes, load_model, models
from torchsaliency.zoo.checkpoints import read_checkpoint
from torchsaliency.zoo.inputs import InputFacts
from torchsaliency.zoo.sources.builtin import match_in_order
from torchsaliency.zoo.sources.source import Request


@pytest.fixture(scope="module")
def builtin():
    return load_model(DEFAULT_MODEL)


class TestBuiltin:
    @pytest.mark.parametrize("name", list(sample_photos()))
    def test_it_classifies_the_sample_photos(self, builtin, name):
        sample = sample_photos()[name]
        with torch.no_grad():
            logits = builtin(builtin.preprocessing(sample.open()).unsqueeze(0))
        assert logits.argmax(1).item() == sample.class_index
        assert builtin.class_name(sample.class_index) == sample.class_name

    def test_its_layer_is_the_last_map(self, builtin):
        seen = []
        module = builtin.layer.module_of(builtin.module)
        handle = module.register_forward_hook(lambda _, __, output: seen.append(output))
        with torch.no_grad():
            builtin(torch.randn(1, 3, 224, 224))
        handle.remove()
        assert seen[0].shape == (1, 1280, 7, 7)
        assert seen[0].min() == 0  # after the activation

    def test_its_source_is_recorded(self, builtin):
        source = json.loads(json.dumps(builtin.source))
        assert source["sha256"].startswith("57934424")
        assert source["pretrained"] is True
        assert source["versions"]["torch"]

    def test_it_is_in_evaluation_mode(self, builtin):
        assert not any(module.training for module in builtin.modules())

    def test_matching_by_order_is_strict(self):
        ours = {"a.weight": torch.zeros(2), "b.bias": torch.zeros(1)}
        assert list(match_in_order({"x.weight": torch.ones(2), "y.bias": torch.ones(1)}, ours))
        wrong = ({"x.weight": torch.ones(2)}, {"x.bias": torch.ones(2), "y.bias": torch.ones(1)})
        for tensors in wrong:
            with pytest.raises(CheckpointError, match="reinstall"):
                match_in_order(tensors, ours)

    def test_another_number_of_classes_would_be_random(self):
        with pytest.raises(CheckpointError, match="classifier random"):
            load_model(DEFAULT_MODEL, num_classes=3)


class TestTorchvision:
    def test_random_weights_only_on_request(self):
        torch.manual_seed(0)
        network = load_model("torchvision/resnet18", pretrained=False, num_classes=4)
        assert network.source["weights"] == "random"
        assert network.source["pretrained"] is False
        assert network.layer == Layer("layer4.1")
        assert network.classes is None
        assert network(torch.randn(1, 3, 64, 64)).shape == (1, 4)

    def test_an_unreachable_hub_is_an_error(self, monkeypatch):
        def refuse(*_, **__):
            raise URLError("no route to host")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
        with pytest.raises(CheckpointError, match=r"could not be fetched .*weights=FILE"):
            load_model("torchvision/resnet18")

    def test_a_damaged_file_of_its_cache_is_an_error(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        (folder := tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        (folder / "resnet18-f37072fd.pth").write_text("no weights")
        with pytest.raises(CheckpointError, match=r"could not be fetched .*weights=FILE") as caught:
            load_model("torchvision/resnet18")
        assert "weights_only" not in str(caught.value)

    @pytest.mark.parametrize("classes", [1000, 5])
    def test_a_weights_file(self, classes, tmp_path):
        from torchvision.models import resnet18

        model = resnet18(num_classes=classes).eval()
        save_file(model.state_dict(), path := tmp_path / "weights.safetensors")
        before = torch.get_rng_state()
        network = load_model("torchvision/resnet18", weights=path)
        assert torch.equal(torch.get_rng_state(), before)
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(network(x), model(x))
        assert (network.classes == imagenet_classes()) is (classes == 1000)
        assert network.source["weights"] == str(path)

    def test_a_file_of_another_architecture(self, tmp_path):
        from torchvision.models import squeezenet1_1

        torch.save(squeezenet1_1().state_dict(), path := tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match="does not fit the ResNet: missing"):
            load_model("torchvision/resnet18", weights=path)

    def test_a_published_file_gets_its_own_transforms(self, monkeypatch, tmp_path):
        from torchvision.models import resnet50

        torch.save(resnet50().state_dict(), path := tmp_path / "weights.pth")
        default = load_model("torchvision/resnet50", weights=path)
        assert default.preprocessing.resize == (232, 232)
        tagged = load_model("torchvision/resnet50.imagenet1k_v1", weights=path)
        assert tagged.preprocessing.resize == (256, 256)
        published = replace(read_checkpoint(path), sha256="0676ba61" + "0" * 56)
        monkeypatch.setattr(Request, "checkpoint", lambda _: published)
        assert load_model("torchvision/resnet50", weights=path).preprocessing.resize == (256, 256)

    def test_dotted_densenet_files(self, tmp_path):
        from torchvision.models import densenet121

        dotted = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
            for key, value in densenet121().state_dict().items()
        }
        torch.save(dotted, path := tmp_path / "weights.pth")
        load_model("torchvision/densenet121", weights=path)

    @pytest.mark.parametrize("auxiliary", [True, False])
    def test_googlenet_files_rescale_their_input(self, auxiliary, tmp_path):
        from torchvision.models import googlenet

        model = googlenet(aux_logits=auxiliary, init_weights=False, num_classes=7)
        torch.save(model.state_dict(), path := tmp_path / "weights.pth")
        network = load_model("torchvision/googlenet", weights=path)
        assert network.module.transform_input
        assert network(torch.randn(1, 3, 64, 64)).shape == (1, 7)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("resnet81", "close names are resnet1"),
            ("resnet50.v9", "accepted are imagenet1k_v1, imagenet1k_v2"),
        ],
    )
    def test_unknown_names(self, name, message):
        with pytest.raises(CheckpointError, match=message):
            load_model(f"torchvision/{name}")


class TestTimm:
    def test_random_weights_only_on_request(self):
        network = load_model("timm/resnet10t", pretrained=False)
        assert network.source["weights"] == "random"
        assert network.classes == imagenet_classes()
        assert network.layer == Layer("layer4.0")

    def test_an_unreachable_hub_is_an_error(self, monkeypatch):
        def refuse(*_, **__):
            raise ConnectionError("no route to host")

        monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
        with pytest.raises(CheckpointError, match=r"could not be fetched .*weights=FILE"):
            load_model("timm/resnet10t")

    def test_a_weights_file(self, tmp_path):
        import timm

        model = timm.create_model("resnet10t", pretrained=False, num_classes=3).eval()
        torch.save({"state_dict": model.state_dict()}, path := tmp_path / "weights.pth")
        network = load_model("timm/resnet10t", weights=path)
        x = torch.randn(1, 3, 64, 64)
        assert torch.equal(network(x), model(x))
        assert network.class_count == 3

    def test_larger_label_sets_have_names(self):
        network = load_model("timm/mobilenetv3_small_050.lamb_in1k", pretrained=False)
        assert network.class_index("tiger cat") == 282

    def test_unknown_and_unpublished(self):
        with pytest.raises(CheckpointError, match="close names are resnet"):
            load_model("timm/resnet51s")
        with pytest.raises(CheckpointError, match="no pretrained weights for resnet50_mlp"):
            load_model("timm/resnet50_mlp")


class TestHuggingFace:
    @pytest.fixture
    def folder(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        config = transformers.ViTConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=8,
            image_size=32,
            patch_size=8,
            id2label={0: "cat", 1: "dog"},
        )
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
        return tmp_path

    def test_a_local_folder(self, folder):
        network = load_model(f"hf/{folder}")
        assert network.classes == ("cat", "dog")
        assert network.preprocessing.size == (32, 32)
        assert network(network.preprocessing(Image.new("RGB", (40, 30)))[None]).shape == (1, 2)
        assert load_model("hf/any/name", weights=folder).source["weights"] == str(folder)

    def test_a_weights_file(self, folder):
        network = load_model(f"hf/{folder}", weights=folder / "model.safetensors")
        assert network.source["sha256"] != load_model(f"hf/{folder}").source["sha256"]
        x = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(network(x), load_model(f"hf/{folder}")(x))

    def test_a_weights_file_that_does_not_fit(self, folder):
        state = load_file(folder / "model.safetensors")
        save_file(state | {"classifier.bias": torch.zeros(3)}, folder / "bias.safetensors")
        with pytest.raises(CheckpointError, match="other shapes"):
            load_model(f"hf/{folder}", weights=folder / "bias.safetensors")
        wider = {"classifier.bias": torch.zeros(3), "classifier.weight": torch.ones(3, 8)}
        save_file(state | wider, folder / "wider.safetensors")
        network = load_model(f"hf/{folder}", weights=folder / "wider.safetensors")
        assert network.class_count == 3
        assert network.classes is None
        save_file({"a": torch.zeros(1)}, folder / "other.safetensors")
        with pytest.raises(CheckpointError, match=r"leave .* random"):
            load_model(f"hf/{folder}", weights=folder / "other.safetensors")

    def test_weights_that_are_not_finite(self, folder):
        state = load_file(folder / "model.safetensors")
        state["classifier.weight"][0, 0] = torch.nan
        save_file(state, folder / "nan.safetensors")
        with pytest.raises(CheckpointError, match=r"infinite numbers in classifier\.weight;"):
            load_model(f"hf/{folder}", weights=folder / "nan.safetensors")
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=r"infinite numbers in classifier\.weight;"):
            load_model(f"hf/{folder}")
        state["classifier.weight"] = torch.ones(2, 8, dtype=torch.int64)
        save_file(state, folder / "whole.safetensors")
        with pytest.raises(CheckpointError, match=r"classifier\.weight is int64 for float32"):
            load_model(f"hf/{folder}", weights=folder / "whole.safetensors")

    def test_random_weights_only_on_request(self, folder):
        network = load_model(f"hf/{folder}", pretrained=False, num_classes=5)
        assert network.source["weights"] == "random"
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, 5)

    def test_a_classifier_that_the_weights_do_not_fill(self, folder):
        state = load_file(folder / "model.safetensors")
        kept = {key: value for key, value in state.items() if "classifier" not in key}
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=r"leave classifier.bias, classifier.weight"):
            load_model(f"hf/{folder}")

    def test_without_an_image_processor(self, folder):
        (folder / "preprocessor_config.json").write_text("{")
        with pytest.raises(CheckpointError, match="no readable image processor"):
            load_model(f"hf/{folder}")
        (folder / "preprocessor_config.json").unlink()
        network = load_model(f"hf/{folder}")
        assert network.preprocessing == imagenet(32)
        assert "mean 0.485,0.456,0.406" in network.source["assumed"]
        told = load_model(f"hf/{folder}", given=InputFacts.parse(size=32, mean=0.5, std=0.25))
        assert told.preprocessing.mean == (0.5,) * 3
        assert "assumed" not in told.source

    def test_a_folder_is_a_name(self, folder, monkeypatch):
        monkeypatch.chdir(folder.parent)
        network = load_model(f"./{folder.name}")
        assert network.classes == ("cat", "dog")
        (folder / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"has no config\.json; give one that Hugging"):
            load_model(f"./{folder.name}")

    @pytest.mark.parametrize("kind", ["grey", "swin", "clip classifier", "dinov2", "siglip2"])
    def test_kinds_of_networks(self, kind, tmp_path):
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
        vision = {**sizes, "intermediate_size": 8, "image_size": 32, "patch_size": 8}
        name, config, channels, shape = {
            "grey": ("ViTForImageClassification", {**vision, "num_channels": 1}, 1, (1, 2)),
            "swin": (
                "SwinForImageClassification",
                {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
                | {"window_size": 2},
                3,
                (1, 2),
            ),
            "clip classifier": ("CLIPForImageClassification", {"vision_config": vision}, 3, (1, 2)),
            "dinov2": ("Dinov2Model", vision, 3, (1, 8)),
            "siglip2": (
                "Siglip2ForImageClassification",
                {"vision_config": {**vision, "num_patches": 16}},
                3,
                (1, 2),
            ),
        }[kind]
        model_class = getattr(transformers, name)
        model = model_class(model_class.config_class(num_labels=2, **config))
        model.save_pretrained(tmp_path)
        network = load_model(str(tmp_path), given=InputFacts.parse(size=32))
        x = network.preprocessing(Image.new("RGB", (40, 30), "red"))[None]
        assert x.shape == (1, channels, 32, 32)
        assert network(x).shape == shape
        assert network.encoder == (kind == "dinov2")
        maps = explain(network, x + torch.randn_like(x), ["gradcam", "mtsm"])
        assert all(one.map.shape == (1, 32, 32) for one in maps.values())

    def test_a_network_that_reads_no_image(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        config = transformers.ImageGPTConfig(n_positions=64, n_embd=8, n_layer=1, n_head=2)
        transformers.ImageGPTForImageClassification(config).save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="reads input_ids, numbers of words or colours"):
            load_model(str(tmp_path))

    def test_without_the_extra(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(CheckpointError, match=r"pip install 'torchsaliency\[hf\]'"):
            load_model("hf/google/vit-base-patch16-224")


USER_FILE = """
from torch import nn
from torchsaliency.zoo import imagenet

def net():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def sized(num_classes=2):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

net.preprocessing = imagenet(96)
net.classes = ["cat", "dog"]

def deep(depth, width=4, in_channels=1):
    convs = [nn.Conv2d(in_channels if i == 0 else width, width, 3) for i in range(depth)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten())

def number():
    return 3

def broken():
    raise KeyError("config")
"""


class TestUserFile:
    @pytest.fixture
    def file(self, tmp_path):
        (path := tmp_path / "mine.py").write_text(USER_FILE)
        return path

    def test_what_the_factory_carries(self, file):
        network = load_model(f"{file}:net")
        assert network.preprocessing == imagenet(96)
        assert network.classes == ("cat", "dog")
        assert not network.module.training
        assert network.source["pretrained"] is None  # only the user knows
        sized = load_model(f"{file}:sized")
        assert sized.preprocessing == imagenet()
        assert sized.source["assumed"].startswith("size 224x224, mean 0.485,0.456,0.406, std")

    def test_options_in_brackets(self, file):
        network = load_model(f"{file}:deep(depth=2, width=6)")
        assert network.module[1].weight.shape == (6, 6, 3, 3)
        assert network.source["options"] == {"depth": 2, "width": 6}
        assert network.preprocessing.channels == 1
        with pytest.raises(CheckpointError, match=r"give those it needs in brackets"):
            load_model(f"{file}:deep")
        for wrong in ("(2)", "(depth=os.getcwd())", "(**{})", "(depth=)"):
            with pytest.raises(CheckpointError, match="cannot be understood"):
                load_model(f"{file}:deep{wrong}")
        assert load_model("timm/resnet18(in_chans=2)", pretrained=False).preprocessing.channels == 2
        with pytest.raises(CheckpointError, match="timm cannot make resnet18"):
            load_model("timm/resnet18(depth=2)", pretrained=False)
        with pytest.raises(CheckpointError, match="given depth in brackets"):
            load_model("torchvision/resnet18(depth=2)", pretrained=False)

    def test_lightning_tells_the_factory_and_the_input(self, file, tmp_path):
        state = load_model(f"{file}:deep(depth=3)").module.state_dict()
        content = {
            "state_dict": {
                **{f"model.{key}": value for key, value in state.items()},
                "loss.weight": torch.ones(4),
            },
            "hyper_parameters": {"depth": 3, "lr": 0.1, "image_size": 28, "mean": [0.1307]},
            "pytorch-lightning_version": "2.5",
            "class_to_idx": {"one": 1, "none": 0},
        }
        torch.save(content, path := tmp_path / "last.ckpt")
        network = load_model(f"{file}:deep", weights=path)
        assert torch.equal(network.module[2].weight, state["2.weight"])
        assert network.source["stripped"] == "the prefix model., left out: loss.weight"
        assert network.source["assumed"].startswith("std")
        assert (network.preprocessing.size, network.preprocessing.mean) == ((28, 28), (0.1307,))
        assert network.classes == ("none", "one")
        told = load_model(f"{file}:deep", weights=path, given=InputFacts.parse(size="32x40"))
        assert told.preprocessing.size == (32, 40)

    def test_what_the_file_carries(self, tmp_path):
        text = USER_FILE + "\npreprocessing = {'size': 64, 'mean': 127.5, 'std': [127.5]}"
        (path := tmp_path / "mine.py").write_text(text + "\nclasses = ('a', 'b')")
        network = load_model(f"{path}:sized")
        assert (network.preprocessing.size, network.preprocessing.mean) == ((64, 64), (0.5,) * 3)
        assert network.classes == ("a", "b")
        assert "assumed" not in network.source
        assert load_model(f"{path}:net").preprocessing == imagenet(96)
        path.write_text(text + "\nclasses = 3")
        with pytest.raises(CheckpointError, match="carries classes or a preprocessing"):
            load_model(f"{path}:sized")

    @pytest.mark.parametrize("asked", [None, 6])
    def test_a_weights_file_with_other_classes(self, file, asked, tmp_path):
        source = load_model(f"{file}:sized", num_classes=6)
        torch.save(source.module.state_dict(), path := tmp_path / "weights.pth")
        network = load_model(f"{file}:sized", weights=path, num_classes=asked)
        assert torch.equal(network.module[2].weight, source.module[2].weight)

    def test_classes_that_the_factory_cannot_be_told(self, file, tmp_path):
        other = nn.Sequential(nn.Conv2d(3, 9, 3))
        torch.save(other.state_dict(), path := tmp_path / "weights.pth")
        with pytest.raises(CheckpointError, match=r"0.weight is \(9, 3, 3, 3\) for \(2, 3, 3, 3\)"):
            load_model(f"{file}:net", weights=path)
        with pytest.raises(CheckpointError, match="a parameter num_classes"):
            load_model(f"{file}:net", num_classes=9)

    @pytest.mark.parametrize(
        ("factory", "message"),
        [
            ("nothing", "no function 'nothing'; give one .*net, sized"),
            ("number", "returned a int"),
            ("broken", "failed .KeyError"),
        ],
    )
    def test_wrong_factories(self, file, factory, message):
        with pytest.raises(CheckpointError, match=message):
            load_model(f"{file}:{factory}")

    def test_wrong_files(self, tmp_path):
        with pytest.raises(CheckpointError, match="does not exist"):
            load_model(f"{tmp_path}/none.py:net")
        (path := tmp_path / "bad.py").write_text("import a_module_that_is_not_there")
        with pytest.raises(CheckpointError, match=r"cannot be imported .ModuleNotFoundError"):
            load_model(f"{path}:net")


@pytest.mark.parametrize("name", ["resnet50", "keras/resnet50", "timm/", "builtin/nothing", ""])
def test_unknown_names(name):
    with pytest.raises(CheckpointError, match=r"known are|close names are"):
        load_model(name)


def test_types_and_devices():
    network = load_model(DEFAULT_MODEL, dtype=torch.float64, device="cpu")
    assert next(network.parameters()).dtype == torch.float64
    with pytest.raises(OptionError, match="floating-point"):
        load_model(DEFAULT_MODEL, dtype=torch.int64)
    with pytest.raises(OptionError, match="cannot be put on device='nowhere'"):
        load_model(DEFAULT_MODEL, device="nowhere")


def test_the_list_of_models():
    listed = {entry.name: entry for entry in models()}
    assert next(iter(listed)) == DEFAULT_MODEL
    assert listed["torchvision/vgg16"].family == "vgg"
    assert listed["timm/vit_tiny_patch16_224"].family == "vision_transformer"
    assert len(listed) == len(models())
