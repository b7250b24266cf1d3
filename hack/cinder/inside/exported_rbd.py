"""A Cinder backend for development: RBD images that Debian's tgtd, in user space, exports over iSCSI with CHAP.

Making and removing images is Cinder's RBD driver, exporting them Cinder's own helper for tgt. Runs in Cinder's environment.
"""

from cinder.volume import driver
from cinder.volume.drivers import lvm, rbd  # noqa: F401  (lvm brings the options of targets)
from cinder.volume.targets import tgt


class RbdTarget(tgt.TgtAdm):
    """Tells tgt that an image is no file: it would miss one, and Cinder then waits 10 s before it adds the image by hand."""

    VOLUME_CONF = tgt.TgtAdm.VOLUME_CONF.replace("driver %(driver)s", "driver %(driver)s\n    bs-type rbd")


class ExportedRbdDriver(rbd.RBDDriver):
    """Answers with an iSCSI connection where the RBD driver has one of its own."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.configuration.append_config_values(driver.volume_opts)
        self._target = RbdTarget(configuration=self.configuration, executor=self._execute)

    def ensure_export(self, context, volume):
        return self._target.ensure_export(context, volume, self._image(volume))

    def create_export(self, context, volume, connector):
        made = self._target.create_export(context, volume, self._image(volume))
        return {"provider_location": made["location"], "provider_auth": made["auth"]}

    def remove_export(self, context, volume):
        self._target.remove_export(context, volume)

    def initialize_connection(self, volume, connector):
        return self._target.initialize_connection(volume, connector)

    def terminate_connection(self, volume, connector, **options):
        return self._target.terminate_connection(volume, connector, **options)

    def _image(self, volume):
        return f"{self.configuration.rbd_pool}/{volume.name}"

    def _update_volume_stats(self):
        super()._update_volume_stats()
        self._stats["storage_protocol"] = "iSCSI"
