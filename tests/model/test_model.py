from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from model.networks import DIMENSION, PREPARE, SIDE, Means, draw_folder, mean_color, own_model, pixels_of, timm_model
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms

import retrieval
from retrieval.data import ImageSet, prepare, to_image
from retrieval.errors import ConfigError, DatasetError, RetrievalError
from retrieval.model import Model

NUMBER = 5


def reference(model, images):
    """Plain and slow: prepare, embed and normalise the images one by one."""
    vectors = []
    for image in images:
        prepared = torch.from_numpy(prepare(to_image(image), PREPARE))
        with torch.no_grad():
            vector = model.network.eval()(prepared[None])[0].double().numpy()
        vectors.append(vector / np.linalg.norm(vector))
    return np.stack(vectors)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    root = draw_folder(tmp_path_factory.mktemp("images") / "photos", 2, 3)
    return sorted(root.glob("*/*.png"))[:NUMBER]


@pytest.fixture(params=[timm_model, own_model], ids=["timm", "own"])
def model(request) -> Model:
    return request.param(batch_size=2)


def gray(seed):
    return pixels_of(seed)[..., 0]


def transparent(seed):
    image = Image.fromarray(pixels_of(seed)).convert("RGBA")
    image.putalpha(Image.fromarray(gray(seed + 1)))
    return image


def prepared_tensor(seed):
    return torch.from_numpy(prepare(Image.fromarray(pixels_of(seed)), PREPARE))


def uint8_tensor(seed):
    return torch.from_numpy(pixels_of(seed)).permute(2, 0, 1)


# One image in each form: what is given to `encode`, and the same image for the reference.
FORMS = {
    "PIL RGB": (lambda i: Image.fromarray(pixels_of(i)),) * 2,
    "PIL L": (lambda i: Image.fromarray(gray(i)),) * 2,
    "PIL RGBA": (transparent,) * 2,
    "PIL P": (lambda i: Image.fromarray(pixels_of(i)).quantize(9),) * 2,
    "PIL CMYK": (lambda i: Image.fromarray(pixels_of(i)).convert("CMYK"),) * 2,
    "PIL I;16": (lambda i: Image.fromarray(gray(i).astype(np.uint16) * 257),) * 2,
    "PIL 1": (lambda i: Image.fromarray(gray(i)).convert("1"),) * 2,
    "array (h, w, 3)": (pixels_of,) * 2,
    "array (h, w)": (gray,) * 2,
    "array of other strides": (lambda i: pixels_of(i)[::-1, :, ::-1],) * 2,
    "tensor (3, h, w)": (uint8_tensor, pixels_of),
    "tensor (1, h, w)": (lambda i: torch.from_numpy(gray(i))[None], gray),
    "prepared": (prepared_tensor, pixels_of),
    "prepared float64": (lambda i: prepared_tensor(i).double(), pixels_of),
}


def assert_unit_vectors(vectors, shape):
    assert isinstance(vectors, np.ndarray)
    assert vectors.shape == shape
    assert vectors.dtype == np.float32
    assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_one_image_of_any_form_becomes_one_vector_and_several_become_rows(model, form):
    given, plain = FORMS[form]
    expected = reference(model, [plain(i) for i in range(NUMBER)])
    one = model.encode(given(0))
    assert_unit_vectors(one, (DIMENSION,))
    assert_allclose(one, expected[0], atol=1e-5)
    for several in (
        [given(i) for i in range(NUMBER)],
        tuple(given(i) for i in range(NUMBER)),
        (given(i) for i in range(NUMBER)),
    ):
        vectors = model.encode(several)
        assert_unit_vectors(vectors, (NUMBER, DIMENSION))
        assert_allclose(vectors, expected, atol=1e-5)
    assert_unit_vectors(model.encode([given(0)]), (1, DIMENSION))


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_one_image_and_a_list_of_paths_are_several(model, files, kind):
    expected = reference(model, files)
    assert_allclose(model.encode(kind(files[0])), expected[0], atol=1e-5)
    vectors = model.encode(list(map(kind, files)))
    assert_unit_vectors(vectors, (NUMBER, DIMENSION))
    assert_allclose(vectors, expected, atol=1e-5)


def test_batches_of_pixels_and_of_prepared_images_are_several_images(model):
    expected = reference(model, [pixels_of(i) for i in range(NUMBER)])
    for batch in (
        np.stack([pixels_of(i) for i in range(NUMBER)]),
        torch.stack([uint8_tensor(i) for i in range(NUMBER)]),
        torch.stack([prepared_tensor(i) for i in range(NUMBER)]),
        torch.stack([prepared_tensor(i) for i in range(NUMBER)]).to(memory_format=torch.channels_last),
    ):
        vectors = model.encode(batch)
        assert_unit_vectors(vectors, (NUMBER, DIMENSION))
        assert_allclose(vectors, expected, atol=1e-5)


def test_a_list_may_mix_all_forms(model, files):
    expected = reference(model, [files[0], pixels_of(1), gray(2), transparent(3), pixels_of(4), pixels_of(5)])
    mixed = [files[0], pixels_of(1), gray(2), transparent(3), uint8_tensor(4), prepared_tensor(5)]
    assert_allclose(model.encode(mixed), expected, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_set_is_encoded_by_any_number_of_workers(files, workers):
    model = timm_model(batch_size=2, workers=workers)
    root = files[0].parents[1]
    images = ImageSet.from_pairs(root, [(file.relative_to(root).as_posix(), file.parent.name) for file in files])
    vectors = model.encode(images)
    assert_unit_vectors(vectors, (NUMBER, DIMENSION))
    assert_allclose(vectors, reference(model, files), atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_set_of_a_dataset_is_encoded(workers):
    model = timm_model(batch_size=2, workers=workers)
    pixels = [pixels_of(i) for i in range(NUMBER)]
    images = ImageSet.from_dataset(pixels, labels=[0, 1, 0, 1, 0])
    assert_allclose(model.encode(images), reference(model, pixels), atol=1e-5)


def test_a_loader_of_tensors_alone_or_with_labels_is_encoded(model):
    expected = reference(model, [pixels_of(i) for i in range(NUMBER)])
    prepared = torch.stack([prepared_tensor(i) for i in range(NUMBER)])
    labels = torch.arange(NUMBER)
    loaders = [
        DataLoader(prepared, batch_size=3),  # type: ignore[arg-type]
        DataLoader(TensorDataset(prepared), batch_size=3),
        DataLoader(TensorDataset(prepared, labels), batch_size=2),
    ]
    for loader in loaders:
        assert_allclose(model.encode(loader), expected, atol=1e-5)


class Photos(Dataset):
    """A data set of (image, label)."""

    def __len__(self):
        return NUMBER

    def __getitem__(self, index):
        return Image.fromarray(pixels_of(index)), index % 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_of_images_with_labels_is_encoded(workers):
    pixels = [pixels_of(i) for i in range(NUMBER)]
    model = own_model(batch_size=2, workers=workers)
    assert_allclose(model.encode(Photos()), reference(model, pixels), atol=1e-5)
    assert_array_equal(Model(mean_color).encode(Photos()), Model(mean_color).encode(pixels))
    with pytest.raises(DatasetError, match="item 0 of the data set TensorDataset: the image is a tensor of float32"):
        model.encode(TensorDataset(torch.zeros(3, 3, 4, 4), torch.zeros(3)))


def test_a_loader_is_no_input_of_a_function(files):
    with pytest.raises(ValueError, match="this model is a function of images; give the images"):
        Model(mean_color).encode(DataLoader(Photos(), batch_size=2))


def test_a_loader_of_something_else_is_refused(model, files):
    class Named(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {"image": prepared_tensor(index)}

    for data in (Named(), TensorDataset(torch.zeros(3, 4)), TensorDataset(torch.zeros(3, 3, 4, 4, dtype=torch.uint8))):
        with pytest.raises(ValueError, match=r"a batch of the loader holds .*; give a float tensor"):
            model.encode(DataLoader(data, batch_size=2))
    loader = DataLoader([str(file) for file in files], batch_size=2)  # type: ignore[arg-type]
    assert_allclose(model.encode(loader), reference(model, files), atol=1e-5)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), ValueError, "array of float32 (4, 4, 3); give uint8"),
        ([np.zeros((4, 4, 3))], ValueError, "array of float64 (4, 4, 3); give uint8"),
        (np.zeros((4, 4, 4), dtype=np.uint8), ValueError, "array of uint8 (4, 4, 4); give a path"),
        (np.zeros((2, 4, 4, 1), dtype=np.uint8), ValueError, "array of uint8 (4, 4, 1); give a path"),
        (np.zeros(4, dtype=np.uint8), ValueError, "the image is of type uint8; give a path"),
        (np.zeros((0, 4, 3), dtype=np.uint8), ValueError, "without a pixel"),
        (torch.zeros(4, 4, dtype=torch.uint8), ValueError, "tensor of uint8 (4, 4); give a path"),
        (torch.zeros(7, 4, 4, dtype=torch.uint8), ValueError, "tensor of uint8 (7, 4, 4); give a path"),
        (torch.zeros(4, 4), ValueError, "an image is a tensor torch.float32 (4,); give a float tensor (3, height"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], ValueError, "the shapes (3, 8, 8) and (3, 8, 9); prepare all"),
        ([], ValueError, "no batch of images to embed"),
        (np.zeros((0, 4, 4, 3), dtype=np.uint8), ValueError, "no batch of images to embed"),
        (iter(()), ValueError, "no batch of images to embed"),
        (None, ValueError, "the images are of type NoneType; give an image"),
        (7, ValueError, "the images are of type int; give an image"),
        ([None], ValueError, "the image is of type NoneType; give a path"),
        ({"a": 1}.items(), ValueError, "the image is of type tuple; give a path"),
        (b"\xff\xd8", ValueError, "the image is of type int; give a path"),
        ("missing.png", DatasetError, "missing.png: cannot be read as an image (No such file or directory)"),
        (["missing.png"], DatasetError, "missing.png: cannot be read as an image"),
        (".", ValueError, ". is a folder; give retrieval.data.images_in("),
        (Image.fromarray(np.zeros((4, 4), dtype=np.float32)), ValueError, "floating-point numbers"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line_with_the_remedy(model, tmp_path, monkeypatch, images, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as caught:
        model.encode(images)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(model, tmp_path):
    file = tmp_path / "damaged.png"
    file.write_bytes(b"\x89PNG no more")
    with pytest.raises(DatasetError, match=r"damaged\.png: cannot be read as an image"):
        model.encode([pixels_of(0), file])


# Networks of the user


def test_a_module_may_have_any_callable_as_its_preprocessing():
    resize = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    model = Model(Means(), resize, batch_size=2)
    images = [Image.fromarray(pixels_of(i)) for i in range(NUMBER)]
    with torch.no_grad():
        expected = model.network.eval()(torch.stack([resize(image) for image in images]))
    expected = nn.functional.normalize(expected).numpy()
    assert_allclose(model.encode(images), expected, atol=1e-5)
    assert_allclose(model.encode(images[0]), expected[0], atol=1e-5)
    assert_allclose(model.encode(ImageSet.from_dataset(images, labels=[0] * NUMBER)), expected, atol=1e-5)
    assert model.embedding_dim == DIMENSION


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        (lambda image: image, "the preprocessing makes a Image, expected a float tensor"),
        (lambda image: {"pixel_values": 1}, "the preprocessing makes a dict, expected a float tensor"),
        (lambda image: torch.zeros(1, 3, 4, 4), r"the preprocessing makes torch.float32 \(1, 3, 4, 4\), expected"),
        (transforms.ToTensor(), r"prepared images have the shapes \(3, 20, 24\) and \(3, 20, 25\); prepare all"),
    ],
)
def test_a_preprocessing_that_makes_no_batch_is_named(preprocessing, message):
    model = Model(Means(), preprocessing)
    with pytest.raises(ValueError, match=message):
        model.encode([pixels_of(0, 20, 24), pixels_of(1, 20, 25)])


@pytest.mark.parametrize(
    "function",
    [
        mean_color,
        lambda images: torch.from_numpy(mean_color(images)).bfloat16(),
        lambda images: torch.from_numpy(mean_color(images)).requires_grad_(),
        lambda images: mean_color(images).tolist(),
        lambda images: list(torch.from_numpy(mean_color(images))),
    ],
    ids=["array", "bfloat16 tensor", "tensor with gradient", "lists", "list of tensors"],
)
def test_a_function_of_a_list_of_images_is_a_model(function, files):
    model = Model(function, batch_size=2)
    images = [files[0], pixels_of(1), gray(2), transparent(3), uint8_tensor(4)]
    expected = mean_color([to_image(image) for image in images])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = model.encode(images)
    assert_unit_vectors(vectors, (NUMBER, 12))
    assert_allclose(vectors, expected, atol=1e-2 if "bfloat16" in str(function(list(map(to_image, images)))) else 1e-5)
    assert_array_equal(model.encode(images[0]), vectors[0])
    assert_array_equal(model.encode(image for image in images), vectors)
    assert model.embedding_dim == 12
    assert model.device == torch.device("cpu")
    data = ImageSet.from_dataset([np.asarray(to_image(image)) for image in images], labels=[0] * NUMBER)
    assert_array_equal(model.encode(data), vectors)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda images: np.ones(3), r"the function makes \(3,\) of 2 images, expected \(2, dimension\)"),
        (lambda images: np.ones((1, 3)), r"the function makes \(1, 3\) of 2 images"),
        (lambda images: torch.ones(2, 3, 4), r"the function makes \(2, 3, 4\) of 2 images"),
        (lambda images: None, r"the function makes \(\) of 2 images"),
        (lambda images: [[1.0], [1.0, 2.0]], "the function's result: lists of unequal lengths"),
    ],
)
def test_a_function_of_a_wrong_result_is_named(function, message):
    with pytest.raises(ValueError, match=message):
        Model(function).encode([pixels_of(0), pixels_of(1)])


def test_a_module_of_a_wrong_result_is_named():
    for network in (nn.Identity(), nn.Flatten(0)):
        with pytest.raises(ValueError, match=r"the network .* 2 images, expected \(2, dimension\)"):
            Model(network, PREPARE).encode([pixels_of(0), pixels_of(1)])


def test_no_image_for_a_function_is_refused():
    for images in ([], iter(()), ()):
        with pytest.raises(ValueError, match="there is no image to embed; give one"):
            Model(mean_color).encode(images)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "row 0 holds NaN or infinity"), (np.inf, "row 0 holds NaN"), (0.0, "row 0 is zero and has no direction")],
)
def test_vectors_that_cannot_be_used_are_refused_in_one_line(value, message):
    class Constant(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 4), value)

    for model in (Model(Constant(), PREPARE), Model(lambda images: np.full((len(images), 4), value))):
        for images in (pixels_of(0), [pixels_of(0), pixels_of(1)]):
            with pytest.raises(RetrievalError, match="the model makes vectors that cannot be used: ") as caught:
                model.encode(images)
            assert message in str(caught.value)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((Means(),), {}, "preprocessing is None, but Means takes tensors; give a retrieval.data.Preprocessing"),
        ((Means(), "resize"), {}, "preprocessing is 'resize', but Means takes tensors"),
        ((mean_color, PREPARE), {}, "a function gets the images themselves; leave out the preprocessing"),
        (("resnet50", PREPARE), {}, "network is a str; give a torch.nn.Module"),
        ((None,), {}, "network is a NoneType; give a torch.nn.Module"),
        ((Means(), PREPARE), {"precision": "float16"}, "precision is 'float16', expected float32 or bfloat16"),
        ((Means(), PREPARE), {"batch_size": 0}, "batch_size is 0; give at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        Model(*arguments, **options)


def test_the_dimension_is_that_of_the_vectors():
    assert timm_model().embedding_dim == DIMENSION
    assert Model(Means(11), PREPARE).embedding_dim == 11
    asked = []

    def function(images):
        asked.append(len(images))
        return mean_color(images)

    model = Model(function)
    assert [model.embedding_dim, model.embedding_dim] == [12, 12]
    assert asked == [1]


def test_a_model_moves_to_a_device_and_says_so():
    model = own_model()
    assert model.to("cpu") is model
    assert model.to("auto") is model
    assert model.device == next(model.network.parameters()).device
    assert repr(model.to("cpu")).startswith("Model(Means, Preprocessing(")
    assert repr(Model(mean_color)).startswith("Model(function, None")
    with pytest.raises(ConfigError, match="device: 'cuda:99' is not available"):
        model.to("cuda:99")


def test_a_network_in_training_mode_is_left_in_evaluation_mode():
    network = Means().train()
    before = network.norm.running_mean.clone()
    expected = reference(Model(Means(), PREPARE), [pixels_of(0)])
    assert_allclose(Model(network, PREPARE).encode([pixels_of(0)]), expected, atol=1e-5)
    assert not network.training
    assert_array_equal(network.norm.running_mean, before)


def test_no_gradient_is_kept():
    network = Means()
    model = Model(network, PREPARE)
    assert not hasattr(model.encode(prepared_tensor(0).requires_grad_()), "grad")
    assert all(parameter.grad is None for parameter in network.parameters())


def test_bfloat16_changes_the_vectors_a_little():
    exact, fast = timm_model(), timm_model(precision="bfloat16")
    images = [pixels_of(i) for i in range(NUMBER)]
    vectors = fast.encode(images)
    assert_unit_vectors(vectors, (NUMBER, DIMENSION))
    assert_allclose(vectors, exact.encode(images), atol=0.05)


def test_the_size_of_a_batch_does_not_change_the_vectors():
    images = [pixels_of(i) for i in range(7)]
    expected = own_model(batch_size=1).encode(images)
    for size in (2, 3, 7, 64):
        assert_allclose(own_model(batch_size=size).encode(images), expected, atol=1e-6)


def test_four_threads_encode_the_same_vectors():
    model = timm_model(batch_size=2)
    images = [pixels_of(i) for i in range(NUMBER)]
    expected = model.encode(images)
    start = threading.Barrier(4)

    def encode(_):
        start.wait()
        return [model.encode(images) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(encode, range(4)):
            for vectors in found:
                assert_allclose(vectors, expected, atol=1e-6)


def test_a_progress_bar_is_shown_only_on_a_terminal(capfd, monkeypatch):
    monkeypatch.setattr("retrieval.model.encoding._DELAY", 0.0)
    model = own_model(batch_size=1)
    model.encode([pixels_of(i) for i in range(NUMBER)])
    model.encode(pixels_of(0))
    assert capfd.readouterr() == ("", "")


def test_vectors_of_files_are_written_with_their_paths(files, tmp_path):
    model = own_model()
    written = model.embed_files([files[0].parent, files[-1]], tmp_path / "out")
    lines = written.table.read_text().splitlines()
    assert lines[0] == "path"
    assert lines[1:] == [str(files[0]), str(files[1]), str(files[2]), str(files[-1])]
    assert_array_equal(np.load(written.vectors), model.encode(lines[1:]))
    assert written.count == 4
    with pytest.raises(RetrievalError, match="exists already"):
        model.embed_files(files, tmp_path / "out")


def test_the_model_is_the_one_of_the_front_door():
    assert retrieval.Model is Model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_gets_images_of_its_own(dtype):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4))
    prepare = retrieval.Preprocessing(resize=16, size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    expected = retrieval.Model(network, prepare).encode(pixels)
    vectors = retrieval.Model(copy.deepcopy(network).to(dtype), prepare).encode(pixels)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=0.02)


@pytest.mark.slow
def test_storing_a_network_does_not_move_or_change_it():
    pytest.importorskip("onnxscript")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(3 * 16 * 16, 4)).double()
    prepare = retrieval.Preprocessing(resize=16, size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    retrieval.Model(network, prepare).stored()
    assert next(network.parameters()).dtype == torch.float64
