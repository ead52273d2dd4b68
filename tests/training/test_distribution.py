import pytest

from keras_mixer.training.distribution import Devices, check_batch_size, choose_devices


def test_one_cpu_is_one_device():
    devices = choose_devices("cpu")
    assert devices.count == 1
    assert "CPU" in devices.description


@pytest.mark.parametrize("wanted", ["gpu", "tpu", "17"])
def test_devices_that_are_not_there_are_refused(wanted):
    with pytest.raises(ValueError, match=f"devices='?{wanted}'?"):
        choose_devices(wanted)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="auto, cpu, gpu, tpu or a number"):
        choose_devices("npu")


def test_a_batch_that_cannot_be_shared_evenly_is_refused_with_the_nearest_that_can():
    check_batch_size(64, Devices("four", 4))
    with pytest.raises(ValueError, match="use 64 or 68"):
        check_batch_size(66, Devices("four", 4))
