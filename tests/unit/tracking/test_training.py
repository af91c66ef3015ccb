"""Maps of fixed images during training: real fits of two steps, on a tiny network."""

import mlflow
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments
from transformers import Trainer as HuggingFaceTrainer

from torchsaliency.errors import OptionError
from torchsaliency.tracking import FixedImages, PictureFolder
from torchsaliency.tracking import huggingface as hf
from torchsaliency.tracking.lightning import SaliencyCallback

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1])


class Tiny(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, callbacks, **options):
    torch.manual_seed(0)
    module, data = Tiny(), DataLoader(TensorDataset(IMAGES, LABELS), 2)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", callbacks=callbacks, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        log_every_n_steps=1, **options,
    )  # fmt: skip
    trainer.fit(module, data, data)
    return module


def make_fixed(**options):
    return FixedImages(IMAGES[:2], ["gradcam", "layercam"], [0, 1], **options)


# lightning's advice on the number of workers, and what it still calls of torch
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestLightning:
    def test_maps_go_to_tensorboard_and_training_is_the_same(self, tmp_path):
        logger = TensorBoardLogger(tmp_path, name="", version="run")
        watched = fit(tmp_path, [SaliencyCallback(make_fixed(), "net")], logger=logger)
        plain = fit(tmp_path, [], logger=False)
        for one, other in zip(watched.parameters(), plain.parameters(), strict=True):
            assert torch.equal(one, other)
        found = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
        found.Reload()
        assert found.Tags()["images"] == ["saliency/0", "saliency/1"]
        first, second = found.Images("saliency/0")
        assert (first.step, second.step) == (2, 4)
        assert first.encoded_image_string != second.encoded_image_string

    def test_without_a_logger_files_are_written(self, tmp_path):
        fit(tmp_path, [SaliencyCallback(make_fixed(every=2), "net")], logger=False)
        files = sorted(path.name for path in (tmp_path / "saliency").rglob("*.png"))
        assert files == ["0-4.png", "1-4.png"], "every second epoch"

    def test_maps_go_to_mlflow(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        store = (tmp_path / "store").as_uri()
        logger = MLFlowLogger(tracking_uri=store)
        fit(tmp_path, [SaliencyCallback(make_fixed(), "net")], logger=logger)
        client = mlflow.MlflowClient(store)
        files = client.list_artifacts(logger.run_id, "saliency")
        assert len(files) == 4


class Pixels(Dataset):
    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        return {"pixel_values": IMAGES[index], "labels": LABELS[index]}


# what transformers and accelerate still call of torch
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_s_trainer(tmp_path):
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=2
    )
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, eval_strategy="steps", eval_steps=1, report_to=[],
        per_device_train_batch_size=2, use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = HuggingFaceTrainer(
        ResNetForImageClassification(config), arguments, train_dataset=Pixels(),
        eval_dataset=Pixels(), callbacks=[hf.SaliencyCallback(make_fixed())],
    )  # fmt: skip
    trainer.train()
    files = sorted(path.name for path in (tmp_path / "saliency").rglob("*.png"))
    assert files == ["0-1.png", "0-2.png", "1-1.png", "1-2.png"]
    with Image.open(tmp_path / "saliency" / "saliency" / "0-1.png") as picture:
        assert picture.width > 3 * 192


def test_a_picture_a_time(tmp_path):
    net, log = Tiny().net.train(), PictureFolder(tmp_path)
    shown = make_fixed(every=3)
    for step in range(7):
        shown.draw(net, log, step)
    assert net.training
    assert {path.name for path in tmp_path.rglob("*.png")} == {
        f"{image}-{step}.png" for image in (0, 1) for step in (2, 5)
    }
    with pytest.raises(OptionError, match="every is 0"):
        make_fixed(every=0)
