from kgpt_jax.data.people import questions_in_the_same_form


def test_of_two_names_of_one_length_the_later_one_is_the_name():
    for letter in "abcdefgh":  # the order of a set varies from run to run
        first, last = f"Al Fa{letter}", f"Bo Fa{letter}"
        documents = [f"{name}. She sang." for name in (first, last, "Cy Do")]
        asked = questions_in_the_same_form([(f"Did {first} meet {last}?", "yes")], documents)
        assert f"Did {first} meet Cy Do?" in asked
