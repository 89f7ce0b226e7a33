import pytest

from storage.objects.web_addresses import is_forbidden


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "169.254.0.1", "fe80::1%eth0", "fd00:ec2::254", "168.63.129.16", "100.100.100.200"),
        *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "192.0.0.192", "fd20:ce::254"),
    ],
)
def test_link_local_addresses_and_metadata_services_are_forbidden(address: str) -> None:
    assert is_forbidden(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.7",
        "192.168.1.2",
        "172.16.0.1",
        "8.8.8.8",
        "::1",
        "fd12::1",
        "::ffff:10.0.0.7",
        "2002:a00::1",
    ],
)
def test_ordinary_and_private_networks_are_not(address: str) -> None:
    assert not is_forbidden(address)
