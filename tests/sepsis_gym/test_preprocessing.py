from copy import deepcopy


def test_a_copy_is_the_same_thing_so_that_threads_cannot_meet_in_its_caches(trajectories):
    preprocessing = trajectories.preprocessing
    assert deepcopy(preprocessing) is preprocessing
    assert deepcopy([preprocessing.action_bins])[0] is preprocessing.action_bins
