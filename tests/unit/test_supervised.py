"""Supervised training: image sets from files, the schedule of labels, and networks compared with XLA's convolution."""

import gzip
import hashlib
import io
import pickle
import tarfile
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs_of_loops import assert_rows_have_distances

from dormant.rl.networks import convolution
from dormant.rl.networks.convolutional import ImageCNN
from dormant.supervised import Batch, Classifier, SupervisedTraining, _labels, images
from dormant.supervised.images import CIFAR10, Digits, FashionMNIST

TINY = SupervisedTraining(
    Classifier(ImageCNN((8, 8, 8), 16), learning_rate=0.05, batch_size=30),
    Digits(),
    labels="shuffled",
    images=305,
    epochs=22,
    shuffle_epochs=20,
    seeds=(3, 8),
    score_batch=20,
)


def idx(array):
    """Returns the bytes of a gzipped IDX file that contains the array."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(head + array.tobytes())


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    pixels, labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.array([7, 1], np.uint8)
    for file, array in zip(images.FASHION_FILES, (pixels, labels), strict=True):
        (tmp_path / file).write_bytes(idx(array))
    sums = {
        file: hashlib.md5(gzip.decompress((tmp_path / file).read_bytes())).hexdigest() for file in images.FASHION_FILES
    }
    monkeypatch.setattr(images, "FASHION_FILES", sums)
    return tmp_path


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A CIFAR-10 archive with two images per batch. The upper half of the first image is red. The second is blue."""
    rows = np.zeros((2, 3, 32, 32), np.uint8)
    rows[0, 0, :16], rows[1, 2] = 255, 51
    file = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for number in range(1, 6):
            content = pickle.dumps({b"data": rows.reshape(2, -1), b"labels": [number, 0]}, protocol=2)
            entry = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{number}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(images, "CIFAR_MD5", hashlib.md5(file.read_bytes()).hexdigest())
    return file


def test_fashion_mnist_is_read_from_a_folder(fashion):
    pixels, labels = FashionMNIST(fashion).load(1)
    np.testing.assert_allclose(pixels[0, :, :, 0], np.arange(12).reshape(3, 4) / 255, rtol=1e-6)
    assert (labels.tolist(), pixels.dtype, labels.dtype) == ([7], np.float32, np.int32)


def test_another_fashion_mnist_a_missing_one_and_a_damaged_one_are_refused(fashion):
    first, second = images.FASHION_FILES
    with pytest.raises(ValueError, match="has 2 images for training, but 3 were requested"):
        FashionMNIST(fashion).load(3)
    (fashion / first).write_bytes(idx(np.zeros((2, 3, 4), np.uint8)))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz has MD5 \w+, expected \w+"):
        FashionMNIST(fashion).load(1)
    (fashion / first).write_bytes(b"\x1f\x8b not gzip")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is damaged"):
        FashionMNIST(fashion).load(1)
    (fashion / second).unlink()
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist, or name the folder"):
        FashionMNIST(fashion).load(1)


def test_cifar_10_is_read_from_its_archive_with_colours_last(cifar):
    pixels, labels = CIFAR10(cifar).load(2)
    assert labels.tolist() == [1, 0]
    np.testing.assert_array_equal(pixels[0, 0, 0], [1, 0, 0])
    np.testing.assert_array_equal(pixels[0, 31, 0], [0, 0, 0])
    np.testing.assert_allclose(pixels[1], np.broadcast_to(np.float32([0, 0, 0.2]), (32, 32, 3)), rtol=1e-6)


def test_another_archive_and_none_are_refused(cifar):
    cifar.write_bytes(cifar.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="it is damaged or another file"):
        CIFAR10(cifar).load(1)
    with pytest.raises(
        ValueError, match=r"needs cifar-10-python.tar.gz.* and none was named; give its path with --data"
    ):
        CIFAR10().load(1)


def test_where_an_archive_lies_decides_no_result(tmp_path):
    assert CIFAR10(tmp_path) == CIFAR10()


def test_digits_come_with_scikit_learn():
    pixels, labels = Digits().load(1_797)
    assert pixels.shape == (1_797, 8, 8, 1) and (pixels.min(), pixels.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("side", [7, 8])
def test_patches_are_xlas_convolution_with_stride_and_padding(side):
    keys = jax.random.split(jax.random.key(0))
    maps, kernel = jax.random.normal(keys[0], (2, side, side + 1, 3)), jax.random.normal(keys[1], (3, 3, 3, 4))
    ours, theirs = (
        multiply(maps, kernel, 2, "SAME")
        for multiply in (convolution.patches_times_kernel, convolution.xla_convolution)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_step_is_momentum_descent_on_the_cross_entropy():
    agent = Classifier(ImageCNN((1, 1, 1), 1), learning_rate=0.5, momentum=0.9)
    # All parameters are zero, so only the head's bias gets a gradient.
    params = jax.tree.map(jnp.zeros_like, agent.network.init(jax.random.key(0), (4, 4, 1), 2))
    learner = images_learner(agent, params)
    batch = Batch(jnp.ones((4, 4, 4, 1)), jnp.array([0, 0, 0, 1]))
    update = jax.jit(agent.update)
    learner, said = update(learner, batch)
    assert float(said.loss) == pytest.approx(np.log(2)) and float(said.accuracy) == 0.75
    # The predicted probabilities are 1/2 and 1/2. The labels have the frequencies 3/4 and 1/4. So the gradient of the
    # bias is (-1/4, 1/4).
    np.testing.assert_allclose(learner.params["head"]["bias"], [0.125, -0.125], rtol=1e-6)
    learner, _ = update(learner, batch)
    high = 1 / (1 + np.exp(-0.25))
    np.testing.assert_allclose(learner.params["head"]["bias"][0], 0.125 + 0.5 * (0.75 - high + 0.9 * 0.25), rtol=1e-5)


def images_learner(agent, params):
    from dormant.surgery import Learner

    return Learner(params, agent.optimizer().init(params))


def test_labels_are_true_at_first_and_then_permuted_every_so_many_epochs():
    shuffled, true = replace(TINY, shuffle_epochs=2), jnp.arange(100)
    drawn = [np.asarray(_labels(shuffled, true, jnp.array(3), jnp.array(epoch))) for epoch in range(6)]
    assert (drawn[0] == true).all() and (drawn[1] == true).all()
    assert (drawn[2] == drawn[3]).all() and (drawn[4] == drawn[5]).all()
    for one, other in ((true, drawn[2]), (drawn[2], drawn[4])):
        assert (one != other).sum() > 80 and sorted(one.tolist()) == sorted(other.tolist())
    others = np.asarray(_labels(shuffled, true, jnp.array(8), jnp.array(2)))
    assert (others != drawn[2]).sum() > 80
    assert (_labels(replace(shuffled, labels="fixed"), true, jnp.array(3), jnp.array(5)) == true).all()


@pytest.fixture(scope="module")
def run():
    """Returns all states and metrics of a run. It has 20 epochs of true labels, then two epochs of shuffled labels."""
    states, rows = [TINY.init()], []
    rows.append(TINY.measure(states[0]))
    for _ in range(TINY.epochs):
        state, metrics = TINY.advance(states[-1])
        states.append(state)
        rows.append(metrics)
    return states, rows


def test_an_epoch_takes_whole_batches_and_counts_gradient_steps(run):
    states, rows = run
    assert (TINY.steps_per_epoch, TINY.agent_steps) == (10, 220)
    assert [row["gradient_steps"].tolist() for row in rows[1:4]] == [[10, 10], [20, 20], [30, 30]]
    assert [row["epoch"].tolist() for row in rows[:3]] == [[0, 0], [1, 1], [2, 2]]
    assert TINY.agent_steps_done(states[-1]) == TINY.agent_steps


def test_rows_have_the_condition_of_the_network(run):
    states, rows = run
    assert_rows_have_distances([state.learner.params for state in states], rows[1:])


def test_true_labels_are_learnt_and_shuffled_ones_are_new(run):
    _, rows = run
    assert rows[20]["accuracy"].min() > 0.7 > 0.4 > rows[21]["accuracy"].max()
    assert rows[21]["loss"].min() > rows[20]["loss"].max()


def test_the_rise_is_what_a_shuffles_epoch_adds(run):
    _, rows = run
    assert [number for number, row in enumerate(rows) if "rise/0.1/all" in row] == [0, 21]
    assert rows[0]["rise/0.1/all"].tolist() == [0, 0]
    grown = rows[21]["dormant/0.1/all"] - rows[20]["dormant/0.1/all"]
    np.testing.assert_allclose(rows[21]["rise/0.1/all"], grown, atol=1e-7)


def test_neurons_of_every_hidden_layer_are_counted(run):
    _, rows = run
    sizes = {name: row.shape for name, row in rows[-1].items() if name.startswith("scores/")}
    assert sizes == {"scores/conv1": (2, 8), "scores/conv2": (2, 8), "scores/conv3": (2, 8), "scores/dense": (2, 16)}


@pytest.mark.fusing_compiler
def test_seeds_differ_and_do_not_depend_on_their_company(run):
    states, _ = run
    kernels = states[-1].learner.params["dense"]["kernel"]
    assert not np.allclose(kernels[0], kernels[1])
    alone = replace(TINY, seeds=(8,)).init()
    mine, theirs = (each.learner.params["dense"]["kernel"] for each in (alone, states[0]))
    np.testing.assert_array_equal(mine[0], theirs[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"images": 10}, "batch_size must be at most the number of images, got 30 of 10"),
        ({"seeds": ()}, "seeds must hold at least one number"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(TINY, **change)
