"""The decisions of Kubernetes' HorizontalPodAutoscaler (autoscaling/v2), as its documentation states them.

Pure: samples and times come in, numbers of replicas go out. Source: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
("Algorithm details", "Configurable scaling behavior"). What concerns several metrics of one resource, missing samples and
unready pods is kept to what vigie's manifests use.
"""

import math

TOLERANCE = 0.1


def wanted(current, average, target):
    """desiredReplicas = ceil(currentReplicas * currentMetricValue / desiredMetricValue), unless that is within the tolerance."""
    ratio = average / target
    return current if abs(ratio - 1) <= TOLERANCE else math.ceil(current * ratio)


class Autoscaler:
    """One autoscaler with the `behavior` of its manifest. `speed` shortens every period and window alike."""

    def __init__(self, spec, speed=1.0):
        self.spec, self.speed = spec, speed
        self.recommendations = []  # (time, replicas)
        self.changes = []  # (time, difference)

    def _changed(self, now, period, up):
        """Replicas added (or removed) within the last `period` seconds."""
        since = now - period / self.speed
        sign = 1 if up else -1
        return sum(sign * d for at, d in self.changes if at > since and sign * d > 0)

    def _limit(self, now, current, rules, up):
        limits = []
        for policy in rules["policies"]:
            changed = self._changed(now, policy["periodSeconds"], up)
            start = current - changed if up else current + changed
            if policy["type"] == "Pods":
                limits.append(start + policy["value"] if up else start - policy["value"])
            else:
                share = policy["value"] / 100
                limits.append(math.ceil(start * (1 + share)) if up else math.floor(start * (1 - share)))
        most = rules.get("selectPolicy", "Max") == "Max"
        return (max if most == up else min)(limits)

    def decide(self, now, current, desired):
        """Replicas at `now` (seconds), when `desired` is what the metrics ask for."""
        up, down = self.spec["behavior"]["scaleUp"], self.spec["behavior"]["scaleDown"]
        self.recommendations.append((now, desired))
        longest = max(up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"]) / self.speed
        self.recommendations = [(at, n) for at, n in self.recommendations if at >= now - longest]

        def recent(rules):
            return [n for at, n in self.recommendations if at >= now - rules["stabilizationWindowSeconds"] / self.speed]

        stable = current
        if (lowest := min(recent(up))) > current:
            stable = lowest
        elif (highest := max(recent(down))) < current:
            stable = highest
        if stable > current:
            stable = min(stable, max(current, self._limit(now, current, up, True)))
        elif stable < current:
            stable = max(stable, min(current, self._limit(now, current, down, False)))
        stable = min(max(stable, self.spec["minReplicas"]), self.spec["maxReplicas"])
        if stable != current:
            self.changes.append((now, stable - current))
        return stable
