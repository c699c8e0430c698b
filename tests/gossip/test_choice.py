"""From a user's words to a graph."""

import pytest

from gala.gossip.graphs.by_name import WITH_PEERS, choose_topology, parse_schedule
from gala.gossip.graphs.spectrum import mixing_matrix
from gala.gossip.graphs.topology import TOPOLOGIES


def test_a_ring_of_two_peers_is_the_papers():
    graph = choose_topology("ring", 5, peers=2)
    assert graph.out_shares(3, 7, 5) == [(4, 1 / 3), (0, 1 / 3)]
    assert choose_topology("ring", 3, peers=9).out_peers(0, 0, 3) == [1, 2]
    assert choose_topology("ring", 1, peers=2).out_peers(0, 0, 1) == []


@pytest.mark.parametrize("name", WITH_PEERS)
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_one_peer_of_each_graph_is_the_graph(name, n):
    for t in range(4):
        assert (mixing_matrix(WITH_PEERS[name](1), t, n) == mixing_matrix(name, t, n)).all()
    for peers in (2, 3):
        graph = choose_topology(name, n, peers)
        assert max(len(graph.out_peers(rank, 0, n)) for rank in range(n)) <= peers


def test_a_schedule_changes_the_number_of_peers():
    graph = choose_topology("one-peer-exponential", 8, schedule="0:2, 100:1")
    assert [len(graph.out_peers(0, t, 8)) for t in (0, 99, 100, 500)] == [2, 2, 1, 1]
    assert parse_schedule("0:3,5:1") == {0: 3, 5: 1}


def test_a_file(tmp_path):
    path = tmp_path / "three.txt"
    path.write_text("0 1\n1 2\n2 0\n")
    graph = choose_topology(str(path), 3)
    assert graph.learners == 3 and graph.edges(3) == [(0, 1), (1, 2), (2, 0)]


@pytest.mark.parametrize(
    ("text", "settings", "error"),
    [
        ("rign", {}, "unknown topology 'rign'"),
        ("rign", {"peers": 2}, "unknown topology 'rign'"),
        ("torus", {"peers": 2}, "torus has its own number of peers; a number goes with ring, one-peer"),
        ("ring", {"schedule": "0:2,x:1"}, "write FIRST_EXCHANGE:PEERS"),
        ("ring", {"schedule": "0:0"}, "write FIRST_EXCHANGE:PEERS"),
        ("ring", {"schedule": "5:1"}, "from round 0 on"),
        ("nowhere.txt", {}, "cannot read nowhere.txt"),
        ("ring", {"peers": -1}, "peers=-1 must be 0"),
        ("nowhere.txt", {"peers": 1}, "leave out the number of peers"),
    ],
)
def test_bad_choices_are_one_line(text, settings, error):
    with pytest.raises(ValueError, match=error) as caught:
        choose_topology(text, 4, **settings)
    assert "\n" not in str(caught.value)


def test_every_name_can_be_chosen():
    assert [choose_topology(name, 4) for name in TOPOLOGIES] == list(TOPOLOGIES.values())
