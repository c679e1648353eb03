//! What only the `xdp` backend can show: headers, ways, neighbours, queues, and what happens where there are none.
//!
//! Each story lays a cable of its own (`veth.rs`).

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use fanline::io::udp::{UdpIo, UdpOptions};
use fanline::io::xdp::{self, Rung, XdpIo, XdpOptions};
use fanline::io::{Bell, Io};
use fanline::time::Clock;

use super::netns::{Cable, FAR, FAR_V4, FAR_V6, NEAR, NEAR_V4, NEAR_V6, output, run};
use super::veth::{Veth, await_frames, socket};
use super::{Network, Peer, TOO_LONG, collect, commit, kernel_peer, numbered, payloads, to};

/// Whether something attached a program to the near interface.
fn is_attached() -> bool {
    output(&format!("ip link show {NEAR}")).unwrap().contains("xdp")
}

/// How many datagrams have gone by frames, in and out.
fn by_frames(io: &XdpIo) -> (u64, u64) {
    (io.past_the_stack().received_datagrams, io.past_the_stack().sent_datagrams)
}

#[test]
fn both_directions_and_both_families_go_past_the_stack() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    let (mut io, addr) = veth.io("::");
    for (near, far) in [(NEAR_V4, FAR_V4), (NEAR_V6, FAR_V6)] {
        let before = by_frames(&io);
        let peer = veth.far_peer(far);
        peer.tell(SocketAddr::new(near.parse().unwrap(), addr.port()), b"ask");
        let got = collect(&mut veth, &mut io, 1);
        commit(&mut io, &got[0].0, b"answer");
        io.flush();
        assert_eq!(peer.hear().unwrap().1, b"answer");
        assert_eq!(by_frames(&io), (before.0 + 1, before.1 + 1), "{near}");
    }
    assert_eq!(io.rung(), Rung::Copy);
}

#[test]
fn every_payload_up_to_the_mtu_goes_by_a_frame_and_no_longer_one_is_fragmented() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    for (bound, far, longest) in [("127.0.0.1", FAR_V4, 1_472), ("::1", FAR_V6, 1_452)] {
        let (mut io, _) = veth.io(bound);
        let peer = veth.far_peer(far);
        for len in [1, 2, 15, 16, 17, 1_200, longest - 1, longest] {
            commit(&mut io, &to(peer.addr()), &numbered(len, len));
            io.flush();
            assert_eq!(peer.hear().expect("a datagram").1, numbered(len, len));
        }
        assert_eq!(by_frames(&io).1, 8);
        commit(&mut io, &to(peer.addr()), &numbered(0, longest + 1));
        io.flush();
        let counters = io.counters();
        assert_eq!((counters.sent_datagrams, counters.send_failures.too_large), (8, 1), "{bound}");
    }
}

#[test]
fn a_fragmented_datagram_is_put_together_by_the_kernel() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    let (mut io, addr) = veth.io("127.0.0.1");
    let peer = veth.far_peer(FAR_V4);
    peer.tell(addr, &numbered(1, 9_000));
    assert_eq!(payloads(collect(&mut veth, &mut io, 1)), [numbered(1, 9_000)]);
    assert_eq!(by_frames(&io).0, 0);
}

#[test]
fn what_is_not_for_our_ports_stays_the_kernels() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    let (mut io, _) = veth.io("::");
    for near in [NEAR_V4, NEAR_V6] {
        let other = kernel_peer(near);
        let peer = veth.far_peer(if near == NEAR_V4 { FAR_V4 } else { FAR_V6 });
        peer.tell(other.addr(), b"not yours");
        assert_eq!(other.hear().unwrap().1, b"not yours");
        let listener = TcpListener::bind((near, io.local_addr().port())).unwrap();
        let stranger = listener.local_addr().unwrap();
        veth.cable.far.within(|| TcpStream::connect(stranger)).expect("TCP, on the port of our UDP");
    }
    assert_eq!(io.recv(|_| ()), 0);
}

#[test]
fn what_comes_by_loopback_is_served_as_well() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    let (mut io, addr) = veth.io("::");
    let peer = kernel_peer("127.0.0.1");
    peer.tell(SocketAddr::new([127, 0, 0, 1].into(), addr.port()), b"near");
    let got = collect(&mut veth, &mut io, 1);
    commit(&mut io, &got[0].0, b"answer");
    io.flush();
    assert_eq!(peer.hear().unwrap().1, b"answer");
    assert_eq!(by_frames(&io), (0, 0));
}

#[test]
fn a_datagram_for_the_port_of_another_shard_is_handed_to_it_and_wakes_it() {
    let Some(veth) = Veth::plug(Rung::Copy) else { return };
    let sockets: Vec<_> = (0..3).map(|_| socket(NEAR_V4)).collect();
    let mut ios = veth.open(&sockets);
    assert_eq!(ios[0].rung(), Rung::Copy);
    assert_eq!(ios[1].rung(), Rung::Packet, "the cable has one queue");
    let peer = veth.far_peer(FAR_V4);
    let far = to(peer.addr());
    ios.iter_mut().for_each(|io| await_frames(io, &far));
    let addrs: Vec<_> =
        ios.iter().map(|io| SocketAddr::new(NEAR_V4.parse().unwrap(), io.local_addr().port())).collect();
    let (first, others) = ios.split_first_mut().unwrap();
    for (n, io) in others.iter_mut().enumerate() {
        let bell = &sockets[1 + n].1;
        bell.arm();
        peer.tell(addrs[1 + n], &numbered(n, 100));
        let clock = Clock::start();
        let start = clock.now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                first.wait(TOO_LONG);
                assert_eq!(first.recv(|_| ()), 0, "it is not the first shard's");
            });
            io.wait(TOO_LONG);
        });
        bell.disarm();
        assert!(clock.now() - start < TOO_LONG);
        let mut got = Vec::new();
        io.recv(|datagram| got.push((datagram.path.remote, datagram.bytes.to_vec())));
        assert_eq!(got, [(peer.addr(), numbered(n, 100))]);
        commit(io, &far, b"answer");
        io.flush();
        assert_eq!(peer.hear(), Some((addrs[1 + n], b"answer".to_vec())));
        assert_eq!(by_frames(io), (1, 1));
    }
    assert!(ios.iter().all(|io| io.lost() == 0));
}

#[test]
fn a_shard_per_queue_receives_on_its_own() {
    let Some(veth) = Veth::plug_queues(Rung::Copy, 2) else { return };
    let ios = veth.open(&[socket(NEAR_V4), socket(NEAR_V4)]);
    assert!(ios.iter().all(|io| io.rung() == Rung::Copy));
}

/// Puts a router's address on the far host and the network behind it on its loopback.
fn put_a_network_behind_the_far_host(veth: &Veth) {
    veth.cable.far.within(|| {
        run("ip address add 10.88.0.1/32 dev lo").unwrap();
        run("ip -6 address add fd88::1/128 dev lo nodad").unwrap();
    });
    run(&format!("ip route add 10.88.0.0/24 via {FAR_V4}")).unwrap();
    run(&format!("ip -6 route add fd88::/64 via {FAR_V6}")).unwrap();
}

#[test]
fn a_destination_behind_a_gateway_is_reached_by_frames() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    put_a_network_behind_the_far_host(&veth);
    let (mut io, _) = veth.io("::");
    for ip in ["10.88.0.1", "fd88::1"] {
        let peer = veth.far_peer(ip);
        await_frames(&mut io, &to(peer.addr()));
        let before = by_frames(&io).1;
        commit(&mut io, &to(peer.addr()), b"through");
        io.flush();
        assert_eq!(peer.hear().unwrap().1, b"through");
        assert_eq!(by_frames(&io).1, before + 1);
    }
}

#[test]
fn a_route_that_goes_away_or_comes_changes_the_way() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    put_a_network_behind_the_far_host(&veth);
    let (mut io, _) = veth.io("0.0.0.0");
    let path = to(([10, 88, 0, 1], 9).into());
    await_frames(&mut io, &path);
    run("ip route del 10.88.0.0/24").unwrap();
    await_(|| !io.goes_by_frames(&path), "the route is gone");
    commit(&mut io, &path, b"nowhere");
    io.flush();
    assert_eq!(io.counters().send_failures.unreachable, 1);
    run(&format!("ip route add 10.88.0.0/24 via {FAR_V4}")).unwrap();
    await_frames(&mut io, &path);
}

#[test]
fn a_neighbour_that_gets_another_address_is_followed() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    let (mut io, _) = veth.io("127.0.0.1");
    let peer = veth.far_peer(FAR_V4);
    let other_mac = "02:00:00:00:77:77";
    veth.cable.far.within(|| run(&format!("ip link set {FAR} address {other_mac}"))).unwrap();
    // As a gratuitous ARP would.
    run(&format!("ip neighbour replace {FAR_V4} lladdr {other_mac} dev {NEAR} nud reachable")).unwrap();
    let mut heard = None;
    for n in 0..100 {
        io.recv(|_| ());
        commit(&mut io, &to(peer.addr()), &numbered(n, 50));
        io.flush();
        peer.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        heard = peer.hear();
        if heard.is_some() {
            break;
        }
    }
    assert!(heard.is_some(), "nothing arrives at the new address");
    assert!(io.goes_by_frames(&to(peer.addr())));
}

#[test]
fn the_first_datagrams_to_an_unknown_neighbour_go_by_the_socket_and_make_it_known() {
    let Some(veth) = Veth::plug(Rung::Copy) else { return };
    let mut io = veth.open(&[socket(NEAR_V4)]).remove(0);
    run(&format!("ip neighbour flush dev {NEAR}")).unwrap();
    let peer = veth.far_peer(FAR_V4);
    commit(&mut io, &to(peer.addr()), b"first");
    io.flush();
    assert_eq!(peer.hear().expect("not lost").1, b"first");
    assert_eq!(by_frames(&io).1, 0);
    await_frames(&mut io, &to(peer.addr()));
    commit(&mut io, &to(peer.addr()), b"second");
    io.flush();
    assert_eq!(peer.hear().unwrap().1, b"second");
    assert_eq!(by_frames(&io).1, 1);
}

#[test]
fn an_address_that_the_host_gets_later_is_received_past_the_stack_too() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    let (mut io, addr) = veth.io("0.0.0.0");
    run(&format!("ip address add 10.77.0.9/24 dev {NEAR}")).unwrap();
    let peer = veth.far_peer(FAR_V4);
    let to_it = SocketAddr::new([10, 77, 0, 9].into(), addr.port());
    let mut sent = 0;
    await_(
        || {
            sent += 1;
            peer.tell(to_it, &numbered(sent, 50));
            assert_eq!(payloads(collect(&mut veth, &mut io, 1)), [numbered(sent, 50)]);
            by_frames(&io).0 > 0
        },
        "it is received past the socket",
    );
}

#[test]
fn the_program_is_detached_when_the_last_shard_is_dropped() {
    let Some(veth) = Veth::plug(Rung::Copy) else { return };
    await_(|| !is_attached(), "nothing is attached before");
    let mut ios = veth.open(&[socket(NEAR_V4), socket(NEAR_V4)]);
    assert!(is_attached());
    ios.pop();
    assert!(is_attached());
    drop(ios);
    await_(|| !is_attached(), "the program is detached");
    assert_eq!(veth.open(&[socket(NEAR_V4)])[0].rung(), Rung::Copy, "and the queue can be had again");
}

#[test]
fn where_another_program_is_attached_a_packet_socket_sends() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    let _first = veth.open(&[socket(NEAR_V4)]);
    let (io, _) = veth.io("127.0.0.1");
    assert_eq!(io.rung(), Rung::Packet);
}

#[test]
fn where_there_is_no_ethernet_the_sockets_come_back_with_the_reason() {
    let Some(_cable) = Cable::plug(1) else { return };
    let refused = |interface: Option<&str>| {
        let (addr, bell) = socket("127.0.0.1");
        let io = UdpIo::bind(addr, bell.clone(), UdpOptions::default()).unwrap();
        let options = XdpOptions { interface: interface.map(str::to_owned), ..Default::default() };
        let refused = xdp::open(vec![(io, bell)], &options).err().expect("refused");
        assert_eq!(refused.sockets.len(), 1);
        refused.reason
    };
    assert_eq!(refused(Some("lo")), "interface lo carries no Ethernet");
    assert_eq!(refused(Some("no0")), "there is no interface no0 (`ip link` shows which there are)");
    assert_eq!(refused(None), "there is no default route; name the interface with --interface");
}

#[test]
fn the_interface_is_that_of_the_advertised_address_or_of_the_default_route() {
    let Some(veth) = Veth::plug(Rung::Copy) else { return };
    let rung = |advertise: Vec<IpAddr>| {
        let (addr, bell) = socket(NEAR_V4);
        let io = UdpIo::bind(addr, bell.clone(), UdpOptions::default()).unwrap();
        let options = XdpOptions { advertise, ..Default::default() };
        xdp::open(vec![(io, bell)], &options).map(|ios| ios[0].0.rung()).map_err(|refused| refused.reason)
    };
    assert_eq!(rung(vec![NEAR_V4.parse().unwrap()]), Ok(Rung::Copy));
    assert!(rung(vec![]).is_err());
    run(&format!("ip route add default via {FAR_V4}")).unwrap();
    assert_eq!(rung(vec![[203, 0, 113, 1].into()]), Ok(Rung::Copy));
    drop(veth);
}

#[test]
fn two_backends_that_face_each_other_lose_nothing() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    let (mut near, addr) = veth.io("127.0.0.1");
    let mut far = veth.cable.far.within(|| {
        let (addr, bell) = socket(FAR_V4);
        let io = UdpIo::bind(addr, bell.clone(), UdpOptions::default()).unwrap();
        let options = XdpOptions { interface: Some(FAR.to_owned()), ..Default::default() };
        xdp::open(vec![(io, bell)], &options).unwrap().remove(0).0
    });
    await_frames(&mut far, &to(addr));
    for round in 0..50 {
        for n in 0..100 {
            commit(&mut far, &to(addr), &numbered(round + n, 120));
        }
        far.flush();
        let got = payloads(collect(&mut veth, &mut near, 100));
        assert_eq!(got, (0..100).map(|n| numbered(round + n, 120)).collect::<Vec<_>>());
        far.recv(|_| ());
    }
    assert_eq!((by_frames(&far).1, by_frames(&near).0), (5_000, 5_000));
}

#[test]
fn ten_thousand_datagrams_in_one_turn_leave_by_frames() {
    let Some(mut veth) = Veth::plug(Rung::Copy) else { return };
    let (mut io, _) = veth.io("127.0.0.1");
    let peer = veth.far_peer(FAR_V4);
    socket2::SockRef::from(&peer).set_recv_buffer_size(32 << 20).unwrap();
    for n in 0..10_000 {
        commit(&mut io, &to(peer.addr()), &numbered(n, 120));
    }
    io.flush();
    let counters = io.counters();
    assert_eq!((counters.sent_datagrams, counters.send_failures), (10_000, Default::default()));
    assert_eq!(by_frames(&io).1, 10_000);
}

fn wait_ends<E>(end: impl FnOnce(&UdpSocket, SocketAddr, &Bell) -> E + Send) -> Option<(XdpIo, Duration)>
where
    E: Send,
{
    let veth = Veth::plug(Rung::Copy)?;
    let (addr, bell) = socket(NEAR_V4);
    let mut io = veth.open(&[(addr, bell.clone())]).remove(0);
    let (peer, addr) = (veth.far_peer(FAR_V4), SocketAddr::new(addr.ip(), io.local_addr().port()));
    let clock = Clock::start();
    let start = clock.now();
    bell.arm();
    std::thread::scope(|scope| {
        scope.spawn(|| end(&peer, addr, &bell));
        io.wait(TOO_LONG);
    });
    bell.disarm();
    Some((io, clock.now() - start))
}

#[test]
fn wait_ends_by_a_frame() {
    let Some((mut io, waited)) = wait_ends(|peer, addr, _| peer.tell(addr, b"x")) else { return };
    assert!(waited < TOO_LONG);
    assert_eq!(io.recv(|datagram| assert_eq!(datagram.bytes, b"x")), 1);
    assert_eq!(by_frames(&io).0, 1);
}

#[test]
fn wait_ends_by_a_datagram_at_the_socket() {
    let Some((mut io, waited)) = wait_ends(|_, addr, _| {
        let peer = kernel_peer(&addr.ip().to_string());
        peer.tell(addr, b"x");
    }) else {
        return;
    };
    assert!(waited < TOO_LONG);
    assert_eq!(io.recv(|datagram| assert_eq!(datagram.bytes, b"x")), 1);
}

#[test]
fn wait_ends_by_the_bell_of_an_armed_sleeper() {
    let Some((_, waited)) = wait_ends(|_, _, bell| bell.ring()) else { return };
    assert!(waited < TOO_LONG);
}

/// Waits for what another thread or the kernel does in its own time, for at most a few seconds.
fn await_(mut done: impl FnMut() -> bool, what: &str) {
    for _ in 0..300 {
        if done() {
            return;
        }
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        rustix::event::poll(&mut [], Some(&pause)).unwrap();
    }
    panic!("does not come true: {what}");
}
