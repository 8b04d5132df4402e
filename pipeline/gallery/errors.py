"""What a gallery refuses, and why; the API makes a status of each kind."""

from __future__ import annotations

from pipeline.errors import PipelineError


class GalleryError(PipelineError):
    """The root of what a gallery refuses."""


class UnknownError(GalleryError):
    """There is no subject, template, cluster or receipt of this name."""


class DuplicateError(GalleryError):
    """There is one already."""


class InvalidError(GalleryError):
    """What was given can be no vector, name, time or setting of this gallery."""


class PictureError(InvalidError):
    """The picture cannot be read, or its faces are not what was asked for."""


class NoFaceError(PictureError):
    """The picture shows no face."""


class ManyFacesError(PictureError):
    """The picture shows several faces where one was asked for."""


class ForbiddenError(GalleryError):
    """The role, the purpose or the consent does not allow it."""


class RefusedError(GalleryError):
    """What the gallery holds does not allow it now."""


class AwayError(GalleryError):
    """The truth of the gallery does not answer; nothing is known to be written. Ask again later."""
