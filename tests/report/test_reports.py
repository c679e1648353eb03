"""What scripts/bench-report and scripts/video-report make of figures that are known.

Both run as their users run them, on a folder of JSON made here; only the folder is theirs. Python's standard library only.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"


def run(script, data, out):
    command = [sys.executable, SCRIPTS / script, "--data", data, "--out", out]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def floor(sendmsg_ns=2_000, bare_ns=1_900):
    row = lambda path, ns, group="send", destinations=1_000: {
        "group": group, "path": path, "segments": 1, "bytes": 120, "destinations": destinations,
        "cpu_ns_per_packet": {"median": ns}}
    host = {"cpu": "Example", "cores": 2, "kernel": "6.1", "memory_mib": 1, "clock_source": "tsc", "governor": "",
            "virtual_machine": True, "sysctls": [["net.core.rmem_max", "1"]]}
    return {"host": host, "version": "0", "stages": [{"detail": "somewhere"}],
            "rows": [row("sendmsg, both families, source named", sendmsg_ns), row("sendmsg", bare_ns),
                     row("AEAD_AES_128_GCM", 119, "seal", 1), row("AEAD_AES_128_GCM", 125, "seal")]}


def phase(listeners, total_ns, p99, loss=0.0):
    return {"listeners": listeners, "loss": loss, "packets_out_per_second": 50 * listeners,
            "delay_us": {"p50": p99 // 2, "p99": p99}, "spread_us": {"p50": 7},
            "cpu": {"user_ns": 300.4, "system_ns": total_ns - 300.4, "softirq_ns": 0, "total_ns": total_ns, "cores_busy": 0.25},
            "server": {"segments_per_send": 1.0}}


def room(listeners=1_000, total_ns=3_000, p99=1_000, loss=0.0, storm_p99=None, doubts=()):
    phases = [phase(listeners, total_ns, p99, loss)]
    if storm_p99 is not None:
        phases.append(phase(listeners, total_ns, storm_p99))
    return {"program": {"version": "1.2.3", "git_commit": "abc"}, "memory": {"per_listener_bytes": 70 * 1024},
            "phases": phases, "doubts": list(doubts)}


class BenchReport(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.data, self.out = (pathlib.Path(folder.name) / name for name in ("data", "out"))
        self.data.mkdir()

    def put(self, name, *rounds):
        for number, report in enumerate(rounds, 1):
            (self.data / f"{name}.{number}.json").write_text(json.dumps(report))

    def report(self):
        ended = run("bench-report", self.data, self.out)
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        for plot in (self.out / "report").glob("*.svg"):
            xml.etree.ElementTree.parse(plot)
        return (self.out / "REPORT.md").read_text()

    def row(self, report, start, after=""):
        """The cells of the first row that begins so, after a line that begins with `after`."""
        lines = report[report.index(after):].splitlines()
        found = next(line for line in lines if line.startswith(f"| {start}"))
        return [cell.strip() for cell in found.strip("|").split("|")]

    def test_a_claim_is_the_median_of_the_ratios_of_each_round(self):
        self.put("floor", floor(2_000), floor(3_000), floor(2_500))
        self.put("audio-1x1000-udp", room(total_ns=2_200), room(total_ns=3_900), room(total_ns=2_750))
        report = self.report()
        self.assertEqual(self.row(report, "audio, 1 speaker → 1,000 listeners, `udp`")[1:],
                         ["≤ 1.20 ×", "1.10 × (1.10 ×–1.30 ×)", "reached"])
        self.assertEqual(self.row(report, "same: user-space share")[1:], ["≤ 350 ns", "300 ns (300 ns–300 ns)", "reached"])
        self.assertEqual(self.row(report, "AEAD_AES_128_GCM | 1,000")[1:], ["1,000", "120", "125 (125–125)"])
        self.assertEqual(self.row(report, "same, against `sendmsg` from a socket of one family")[1], "(for comparison)")

    def test_a_figure_beyond_its_limit_is_not_reached(self):
        self.put("floor", floor())
        self.put("audio-1x1000-udp", room(total_ns=2_000))
        self.put("audio-1x1000-xdp", room(total_ns=910))
        self.put("storm-1x300", room(p99=1_000, storm_p99=1_510))
        self.put("latency-1x100", room(listeners=100, p99=1_001))
        report = self.report()
        self.assertEqual(self.row(report, "same, `xdp` over veth")[2:], ["0.46 ×", "**not reached**"])
        self.assertEqual(self.row(report, "media p99 while")[2:], ["1.51 ×", "**not reached**"])
        self.assertEqual(self.row(report, "same: p99")[2:], ["1001 µs", "**not reached**"])
        self.assertEqual(self.row(report, "latency, idle, 100 listeners, `udp`: p50")[2:], ["500 µs", "**not reached**"])

    def test_listeners_who_did_not_get_in_count_as_lost(self):
        self.put("floor", floor())
        self.put("capacity-1x5000-udp", room(listeners=4_900))
        self.put("capacity-1x10000-xdp", room(listeners=10_000, loss=0.00009))
        report = self.report()
        self.assertEqual(self.row(report, "5,000 listeners of one speaker")[2:], ["2.0000%", "**not reached**"])
        self.assertEqual(self.row(report, "10,000 listeners of one speaker")[2:], ["0.0090%", "reached"])

    def test_what_was_not_measured_is_named_with_its_reason(self):
        self.put("floor", floor())
        (self.data / "left-out").write_text("audio-1x1000-xdp no interface has it\n")
        report = self.report()
        self.assertEqual(self.row(report, "same, `xdp` over veth")[2:],
                         ["not measured", "not measured (audio-1x1000-xdp: no interface has it)"])
        self.assertEqual(self.row(report, "same: user-space share")[2:],
                         ["not measured", "not measured (not part of this run)"])
        self.assertIn("- `audio-1x1000-xdp`: no interface has it", report)
        self.assertNotIn("## The largest room", report)

    def test_a_search_is_shown_step_by_step_with_its_end(self):
        search = {"phases": [phase(1_000, 3_000, 4_000), phase(2_000, 2_900, 21_000, 0.001)],
                  "capacity": {"listeners": 1_000, "listeners_per_core": 1_000.0, "loss_max": 1e-4, "p99_us_max": 20_000,
                               "limit": "2000 listeners lose 0.1 % of their packets"}}
        self.put("floor", floor())
        self.put("search-1xn-udp", search)
        report = self.report()
        self.assertEqual(self.row(report, "2,000", after="### By `udp`")[1:5], ["100,000", "0.1000%", "10500", "21000"])
        self.assertIn("Round 1: 1,000 listeners, and not more, because 2000 listeners lose", report)
        self.assertEqual(self.row(report, "largest room of one speaker on one core by `udp`")[1:],
                         ["≥ 5,000", "1,000", "**not reached**"])
        self.assertNotIn("| `search-1xn-udp`", report)

    def test_doubts_are_marked_and_listed_with_their_rounds(self):
        self.put("floor", floor(), floor())
        self.put("audio-1x150", room(), room(doubts=["steady: late"]))
        report = self.report()
        self.assertIn("| `audio-1x150` ¹ |", report)
        self.assertIn("- `audio-1x150`: steady: late (round 2)", report)

    def test_data_that_cannot_be_read_is_named_in_one_line(self):
        cases = [("audio-1x150.1.json", "{", "audio-1x150.1.json is not JSON"), ("notes.json", "{}", "notes.json is not NAME"),
                 (None, None, "has no floor.1.json")]
        self.check_named(cases)

    def test_searches_and_what_is_left_out_are_checked_too(self):
        self.put("floor", floor())
        self.check_named([("search-1xn-udp.1.json", "{}", "search-1xn-udp.1.json has no capacity"),
                          ("left-out", "audio-1x150", "left-out has a line that is not NAME WHY")])

    def check_named(self, cases):
        for name, text, problem in cases:
            with self.subTest(problem):
                if name:
                    (self.data / name).write_text(text)
                ended = run("bench-report", self.data, self.out)
                self.assertEqual(ended.returncode, 1)
                self.assertIn(problem, ended.stderr)
                self.assertEqual(ended.stderr.count("\n"), 1, ended.stderr)
                if name:
                    (self.data / name).unlink()


class VideoReport(unittest.TestCase):
    def test_figures_of_the_paths_come_into_their_cells(self):
        sample = {"estimate_bps": 1.5e6, "capacity_bps": 1e6, "received_bps": 7e5}
        path = {"capacity": "1 Mb/s", "loss": 0.05, "rtt_ms": 100, "whole": 0.75, "frozen_ms": 1_200, "switches": 3,
                "estimate_bps": 1.5e6, "capacity_bps": 1e6, "received_bps": 7e5, "samples": [sample] * 20}
        matrix = {"seed": 1, "seconds": 2, "settling_s": 1, "best_chosen_bps": 857_000,
                  "paths": [path, path | {"loss": 0.0, "whole": 1.0, "frozen_ms": 0}]}
        figures = lambda error: {"error": error, "used": 0.9, "delivered": 0.8, "queued_ms": 12.3}
        compared = [{"path": "narrow", "ours": figures(0.1), "theirs": figures(0.2)},
                    {"path": "wide", "ours": figures(0.3), "theirs": figures(0.2)}]
        with tempfile.TemporaryDirectory() as folder:
            data, out = pathlib.Path(folder) / "data", pathlib.Path(folder) / "out"
            data.mkdir()
            (data / "matrix.json").write_text(json.dumps(matrix))
            ended = run("video-report", data, out)
            self.assertIn("estimate.json is not there", ended.stderr)
            self.assertEqual(ended.returncode, 1)
            (data / "estimate.json").write_text(json.dumps(compared))
            ended = run("video-report", data, out)
            self.assertEqual((ended.returncode, ended.stderr), (0, ""))
            report = (out / "VIDEO.md").read_text()
            plots = list((out / "report").glob("*.svg"))
            for plot in plots:
                xml.etree.ElementTree.parse(plot)
        self.assertIn("| 1 Mb/s | 5% | 100 | 75.0% | 1200 | 3 | 1.50 | 1.00 | 50% | 0.70 |", report)
        self.assertIn("| 1 Mb/s | 87.5% | 75.0% | 0.6 | 1.2 | 3 | 3 | 50% | 50% |", report)
        self.assertIn("Of 2 paths ours is no worse than str0m's in error on 1, in used on 2", report)
        self.assertIn("| narrow | 0.10 / 0.20 |", report)
        self.check_broken(matrix, compared)
        self.assertEqual({f"report/{plot.name}" for plot in plots},
                         {line.split("(")[1].rstrip(")") for line in report.splitlines() if line.startswith("![")})

    def check_broken(self, matrix, compared):
        lacking = {key: value for key, value in matrix.items() if key != "best_chosen_bps"}
        empty = matrix | {"paths": [path | {"samples": []} for path in matrix["paths"]]}
        cases = [(lacking, compared, "matrix.json"), (empty, compared, "matrix.json"), (matrix, [{}], "estimate.json"),
                 (matrix, [], "estimate.json")]
        for first, second, name in cases:
            with tempfile.TemporaryDirectory() as folder, self.subTest(name):
                data = pathlib.Path(folder)
                (data / "matrix.json").write_text(json.dumps(first))
                (data / "estimate.json").write_text(json.dumps(second))
                ended = run("video-report", data, data / "out")
                self.assertEqual((ended.returncode, ended.stderr.count("\n")), (1, 1), ended.stderr)
                self.assertIn(f"{name} is not of this version", ended.stderr)
                self.assertFalse((data / "out").exists())


if __name__ == "__main__":
    unittest.main()
