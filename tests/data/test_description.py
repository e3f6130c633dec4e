"""Words to a description and back."""

import pytest

from medldm.data.description import Description, parse
from medldm.errors import UsageError


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("T1w brain, female, 34 years", Description(contrast="T1w", region="brain", sex="female", age=34)),
        ("a T1-weighted MRI of a 34-year-old woman", Description(contrast="T1w", sex="female", age=34)),
        ("FLAIR head m 71y", Description(contrast="FLAIR", region="head", sex="male", age=71)),
        ("t2 flair", Description(contrast="FLAIR")),
        ("T1 post, skull-stripped, aged 5.5", Description(contrast="T1Gd", region="brain", age=5.5)),
        ("hippocampus", Description(region="hippocampus")),
        ("Male. Age: 60", Description(sex="male", age=60)),
    ],
)
def test_people_write_the_same_thing_in_many_ways(prompt, said):
    understood = parse(prompt)
    assert understood.description == said
    assert understood.unknown == ()


def test_what_is_understood_is_shown_back_and_so_is_the_rest():
    understood = parse("happy T1w, sex female, age 34, T3")
    assert understood.unknown == ("happy", "t3")
    assert str(understood) == "contrast T1w, sex female, age 34; not understood: 'happy', 't3'"


def test_a_description_in_words_is_understood_as_itself():
    said = Description(contrast="T2w", region="head", sex="male", age=40)
    assert parse(said.text).description == said


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("  ", "Say what to generate"),
        ("T1w brain, 250 years", "An age of 250 makes no sense: 0 to 120 years"),
        ("-3 years", "An age of -3 makes no sense"),
        ("T1 and T2", "asks for contrast T"),
        ("female or male", "asks for sex"),
        ("20 years or 30 years", "names the ages 20 and 30"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(prompt, sentence):
    with pytest.raises(UsageError, match=sentence):
        parse(prompt)


def test_named_values_come_before_words():
    named, spoken = Description(sex="male"), Description(contrast="T1w", sex="female", age=3)
    assert named.filled(spoken) == Description(contrast="T1w", sex="male", age=3)


def test_age_zero_is_said():
    assert str(Description(age=0)) == "age 0"
