"""What the documentation of Kubernetes says of its autoscaler, as examples."""

import unittest

from hpa import Autoscaler, wanted


def spec(up=None, down=None, least=1, most=100):
    behaviour = {
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}, {"type": "Pods", "value": 4, "periodSeconds": 15}]},
        "scaleDown": {"stabilizationWindowSeconds": 300, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
    }
    behaviour["scaleUp"].update(up or {})
    behaviour["scaleDown"].update(down or {})
    return {"minReplicas": least, "maxReplicas": most, "behavior": behaviour}


class Formula(unittest.TestCase):
    def test_the_ratio_decides(self):
        self.assertEqual(wanted(1, 200, 100), 2)
        self.assertEqual(wanted(2, 50, 100), 1)
        self.assertEqual(wanted(3, 0.9, 0.7), 4)

    def test_near_the_target_nothing_changes(self):
        self.assertEqual(wanted(10, 0.76, 0.7), 10)
        self.assertEqual(wanted(10, 0.64, 0.7), 10)


class Behaviour(unittest.TestCase):
    def test_up_at_most_doubles_or_adds_four_whichever_is_more(self):
        scaler = Autoscaler(spec())
        self.assertEqual(scaler.decide(0, 1, 50), 5)
        # Within the same period nothing more is allowed; five doubled is ten in the next.
        self.assertEqual(scaler.decide(5, 5, 50), 5)
        self.assertEqual(scaler.decide(16, 5, 50), 10)

    def test_down_waits_for_the_window_and_takes_its_highest(self):
        scaler = Autoscaler(spec(down={"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}))
        self.assertEqual(scaler.decide(0, 8, 8), 8)
        self.assertEqual(scaler.decide(200, 8, 2), 8)
        self.assertEqual(scaler.decide(301, 8, 2), 7)
        self.assertEqual(scaler.decide(330, 7, 2), 7)
        self.assertEqual(scaler.decide(362, 7, 2), 6)

    def test_the_documented_down_limits_of_ten_percent_or_five_pods(self):
        policies = [{"type": "Percent", "value": 10, "periodSeconds": 60}, {"type": "Pods", "value": 5, "periodSeconds": 60}]
        scaler = Autoscaler(spec(down={"stabilizationWindowSeconds": 0, "policies": policies}))
        # "a minimum of 10 % or 5 pods, whichever lets more go": 80 -> 72 by the first, 75 by the second.
        self.assertEqual(scaler.decide(0, 80, 10), 72)
        small = Autoscaler(spec(down={"stabilizationWindowSeconds": 0, "policies": policies}))
        self.assertEqual(small.decide(0, 20, 10), 15)

    def test_bounds_hold(self):
        scaler = Autoscaler(spec(least=2, most=6))
        self.assertEqual(scaler.decide(0, 5, 60), 6)
        self.assertEqual(scaler.decide(400, 2, 0), 2)

    def test_speed_shortens_every_window(self):
        scaler = Autoscaler(spec(), speed=10)
        scaler.decide(0, 4, 4)
        self.assertEqual(scaler.decide(29, 4, 1), 4)
        self.assertEqual(scaler.decide(31, 4, 1), 1)


if __name__ == "__main__":
    unittest.main()
