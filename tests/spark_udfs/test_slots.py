"""What is taken for an order's number, and what is masked, among what customers write."""

from __future__ import annotations

import pytest

from spark_udfs.slots import EMAIL, LETTERS, ORDER_NUMBER, persons_own, plain, printable, slots_of


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("cancel 111111, no, 222222", "222222"),
        ("cancel order 111111, sorry, 222222", "222222"),
        ("my order AB-1234, call +49 170 5556677", "AB-1234"),
        ("cancel order 123456 that I placed on 2024-01-05", "123456"),
        ("order 123456 of 05-01-2024, bought in 2024", "123456"),
        ("order 123456, I paid 1200 dollars", "123456"),
        ("order no. 1234567, zip 90210", "1234567"),
        ("order 123456, my phone is 0170 5556677, my card 4111 1111 1111 1111", "123456"),
        ("order 123456 and 777777", "123456"),
        ("#2024", "2024"),
        ("my order \uff11\uff12\uff13\uff14\uff15\uff16", "123456"),
        ("\u0661\u0662\u0663\u0664", "1234"),
        ("\u6211\u7684\u8ba2\u5355123456\u4ec0\u4e48", "123456"),
        ("\uc8fc\ubb38123456\uc744", "123456"),
        ("where is AB-1001.", "AB-1001"),
        ("where is AB-1001-X1", None),
        ("where is AB-1001/2", None),
        ("where is AB-1001.5", None),
        ("I paid \u20ac 1300, that is 1400 USD", None),
        ("on 2024-01-05, 05-01-24 or in 2024", None),
        ("4111-1111-1111-1111", None),
        ("call me at 0170 5556677", None),
        ("it is DE89 3704 0044 0532 0130 00", None),
        ("it cost \u00a51200, my account number is 123456", None),
    ],
)
def test_a_number_is_an_orders_only_where_it_is_nothing_else(text: str, number: str | None) -> None:
    assert slots_of(text).get(ORDER_NUMBER) == number


def test_what_is_shown_of_a_message_has_no_numbers_and_addresses_and_steers_nothing() -> None:
    for secret in ("jo\uff20shop.example", "\uff11\uff12\uff13\uff14", "\u0661\u0662\u0663\u0664", "jo@shop.example"):
        assert plain(f"it is {secret} .", 99).split() == ["it", "is", "...", "."]
    assert slots_of("jo\uff20shop.example") == {EMAIL: "jo@shop.example"}
    assert plain(f"{'a ' * (LETTERS // 2 - 2)}jo.doe@shop.example", 10**6).endswith("a ...")
    assert plain("a\x1b[31m\nb 1234 me@x.example", 99) == "... b ... ..."
    assert printable("a\x1b[2J\u202eb\nc\u200dd\x00") == "a [2J b\nc\u200dd "


def test_a_persons_own_is_all_that_has_a_digit_or_is_an_address() -> None:
    text = "1. Mrs Doe,\n 2) **#00123842**, jo@x.example; (+49 170) $350! \u0663\u0664 24/7"
    assert persons_own(text) == {"00123842", "jo@x.example", "+49", "170", "$350", "34"}
