"""Which packages of apt's answer are taken, and what is changed in the unpacked files."""

from pathlib import Path

from deploy.local.packages import Package, needed, rewrite_erlang_root

# As `apt-get install --print-uris postgresql rabbitmq-server` answers on a bare Debian 12, shortened.
LISTING = """\
NOTE: This is only a simulation!
'http://mirror/pool/cron-daemon-common_3.0pl1-162_all.deb' cron-daemon-common_3.0pl1-162_all.deb 12660 MD5Sum:1
'http://mirror/pool/libjson-perl_4.10000-1_all.deb' libjson-perl_4.10000-1_all.deb 87516 MD5Sum:2
'http://mirror/pool/erlang-base_25.2.3%2bdfsg-1_amd64.deb' erlang-base_1%3a25.2.3+dfsg-1_amd64.deb 9697280 MD5Sum:3
'http://mirror/pool/libicu72_72.1-3%2bdeb12u1_amd64.deb' libicu72_72.1-3+deb12u1_amd64.deb 9376124 MD5Sum:4
'http://mirror/pool/libllvm14_14.0.6-12_amd64.deb' libllvm14_1%3a14.0.6-12_amd64.deb 21840232 MD5Sum:5
'http://mirror/pool/postgresql-client-15_15.20-0_amd64.deb' postgresql-client-15_15.20-0_amd64.deb 1778868
'http://mirror/pool/postgresql-15_15.20-0_amd64.deb' postgresql-15_15.20-0_amd64.deb 17091392
'http://mirror/pool/postgresql-common_248_all.deb' postgresql-common_248_all.deb 179624
'http://mirror/pool/postgresql_15%2b248_all.deb' postgresql_15+248_all.deb 10332
'http://mirror/pool/libldap-2.5-0_2.5.13_amd64.deb' libldap-2.5-0_2.5.13_amd64.deb 183000 MD5Sum:6
'http://mirror/pool/rabbitmq-server_3.10.8-1.1_all.deb' rabbitmq-server_3.10.8-1.1_all.deb 14930220 MD5Sum:7
"""


def test_servers_and_their_libraries_are_taken_and_the_rest_of_the_system_is_left() -> None:
    assert [package.name for package in needed(LISTING)] == [
        "erlang-base",
        "libicu72",
        "postgresql-client-15",
        "postgresql-15",
        "libldap-2.5-0",
        "rabbitmq-server",
    ]


def test_a_version_keeps_its_epoch() -> None:
    assert Package("erlang-base", "1:25.2.3+dfsg-1", 9_697_280) in list(needed(LISTING))


def test_nothing_to_fetch_is_no_package() -> None:
    assert list(needed("Reading package lists...\n0 upgraded, 0 newly installed.\n")) == []


def test_erlang_starts_from_the_folder_that_it_was_unpacked_to(tmp_path: Path) -> None:
    script = tmp_path / "erl"
    script.write_text('if true; then\n    ROOTDIR=/usr/lib/erlang\nfi\nBINDIR="$ROOTDIR/erts-13/bin"\n')

    rewrite_erlang_root(script, Path("/home/ann/parley/.local/usr/lib/erlang"))

    text = script.read_text()
    assert "    ROOTDIR=/home/ann/parley/.local/usr/lib/erlang\n" in text
    assert 'BINDIR="$ROOTDIR/erts-13/bin"' in text
