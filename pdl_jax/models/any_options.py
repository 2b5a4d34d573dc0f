"""The options of any network."""

from pdl_jax.models.deeperlab_options import DeeperLabNetworkOptions
from pdl_jax.models.kmax_options import KMaXNetworkOptions
from pdl_jax.models.max_options import MaXNetworkOptions
from pdl_jax.models.options import ModelOptions

AnyNetworkOptions = ModelOptions | DeeperLabNetworkOptions | KMaXNetworkOptions | MaXNetworkOptions
