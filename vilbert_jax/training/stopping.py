"""How the hosts of a run agree to stop."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh


class StopVote:
    """Asks all hosts at every step whether one of them is to stop.

    Hosts must leave the loop at the same step, or one waits for the other for ever. A preemption notice leaves some 30
    seconds, so asking at log steps only would be too late; waiting for an answer at every step would stall the devices.
    So the votes of a step are added up by the devices behind that step, and read one step later, when they have long
    been there.

    Args:
        mesh: of all devices of the run.
    """

    def __init__(self, mesh: Mesh):
        self._by_device = jax.NamedSharding(mesh, jax.P(mesh.axis_names))
        self._any = jax.jit(jnp.any, out_shardings=jax.NamedSharding(mesh, jax.P()))
        self._counted: jax.Array | None = None

    def asked(self, flag: bool) -> bool:
        """Votes for this step; whether a host voted to stop at the step before. A host by itself decides at once.

        Args:
            flag: this host's vote. All hosts must call at the same steps.
        """
        if jax.process_count() == 1:
            return flag
        votes = np.full(jax.local_device_count(), flag)
        votes = jax.make_array_from_process_local_data(self._by_device, votes)
        previous, self._counted = self._counted, self._any(votes)
        return previous is not None and bool(jax.device_get(previous))
