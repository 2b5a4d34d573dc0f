"""Writing of converted weights as a checkpoint for evaluation, prediction and training."""

from typing import Any

from pdl_jax.convert.conversion import Conversion, has_folded_norm
from pdl_jax.convert.source import Source, list_backbones
from pdl_jax.data import catalog
from pdl_jax.data.annotated_split import without_things
from pdl_jax.experiment import Experiment
from pdl_jax.models.any_options import AnyNetworkOptions
from pdl_jax.models.model_backbone import describe_backbone
from pdl_jax.storage.checkpointer import Checkpointer
from pdl_jax.systems.network_options import NetworkSystemOptions
from pdl_jax.systems.system import SystemOptions
from pdl_jax.typing import PyTree


def find_network(options: SystemOptions) -> AnyNetworkOptions:
    """Returns the network of a system that weights can be converted for.

    Raises:
      ValueError: the system's network is none of presets.
    """
    if not isinstance(options, NetworkSystemOptions):
        raise ValueError(f'no weights are converted for the system {options.name!r}')
    return options.model


def list_conversion_fields(
    conversion: Conversion, variables: PyTree, spec: catalog.DatasetSpec
) -> dict[str, Any]:
    """Lists the fields of the configuration that converted weights decide."""
    fields: dict[str, Any] = {
        'model.preset': conversion.network.name,
        'data.num_classes': spec.num_classes,
    }
    if has_folded_norm(variables):
        # Training would normalise by the statistics of a batch and undo the folded scale.
        fields['model.freeze_backbone_norm'] = True
    return fields


def is_partial(conversion: Conversion) -> bool:
    """Returns true if a file lacks a part of the network.

    Training can start from such weights, but they cannot predict.
    """
    return conversion.is_backbone_only or bool(conversion.account.missing)


def describe(
    conversion: Conversion,
    variables: PyTree,
    source: Source,
    *,
    file: str,
    experiment: Experiment | None = None,
    spec: catalog.DatasetSpec | None = None,
) -> dict[str, Any]:
    """Makes the description of a checkpoint.

    Args:
      conversion: the file as variables of a network.
      variables: see `conversion.load`.
      source: the program that published the file.
      file: its name.
      experiment: the experiment of a network that is not partial.
      spec: the classes of a network that is not partial.

    Returns:
      'origin': where the weights come from; if nothing is missing also 'config' and 'dataset',
      enough to predict.
    """
    origin = {
        'source': source.name,
        'file': file,
        'preset': conversion.network.name,
        'is_partial': experiment is None,
        'has_folded_norm': has_folded_norm(variables),
    }
    if experiment is None or spec is None:
        trained = _find_training(conversion, source)
        return {'origin': {**origin, 'backbone': describe_backbone(trained)}}
    if not experiment.system.has_instances:
        spec = without_things(spec)
    origin['backbone'] = experiment.system.describe_weights()
    return {'config': experiment.to_json(), 'dataset': spec.to_dict(), 'origin': origin}


def write_checkpoint(output: str, variables: PyTree, description: dict[str, Any]) -> None:
    """Writes the checkpoint of step 0 in a workdir.

    Raises:
      OSError: the checkpoint could not be written.
    """
    checkpointer = Checkpointer(output, keep=1)
    checkpointer.save(variables, step=0, input_position={}, description=description)
    checkpointer.close()


def _find_training(conversion: Conversion, source: Source) -> AnyNetworkOptions:
    """Finds the options of the network that a backbone was trained in.

    They may differ from those of the network that it is converted for.
    """
    options = conversion.network.options
    trained = [
        network.options
        for network in list_backbones(source)
        if network.options.backbone.name == options.backbone.name
    ]
    return (
        trained[0]
        if conversion.is_backbone_only and trained and options not in trained
        else options
    )
