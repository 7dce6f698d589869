import numpy as np
import torch

from nas.randomness import Stream, numpy_generator, shuffled_batches, torch_generator


def test_numbers_are_a_function_of_seed_stream_and_position():
    def draw(*place):
        return torch.rand(4, generator=torch_generator(*place)).tolist()

    assert draw(1, Stream.PATHS, 2, 3) == draw(1, Stream.PATHS, 2, 3)
    places = [(1, Stream.PATHS, 2, 3), (2, Stream.PATHS, 2, 3), (1, Stream.ORDER, 2, 3), (1, Stream.PATHS, 3, 2)]
    assert len({tuple(draw(*place)) for place in places}) == len(places)


def test_batches_cover_the_frames_once_without_the_incomplete_last():
    batches = shuffled_batches(10, 4, numpy_generator(0, Stream.ORDER, 0))
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(np.concatenate(batches))) == 8


def test_fewer_frames_than_a_batch_are_one_batch():
    assert [len(batch) for batch in shuffled_batches(3, 8, numpy_generator(0, Stream.ORDER, 0))] == [3]


def test_the_number_of_steps_can_be_capped():
    assert len(shuffled_batches(100, 4, numpy_generator(0, Stream.ORDER, 0), max_steps=5)) == 5
