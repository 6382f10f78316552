"""Tasks: for each, the functions that a run needs, in one frozen record."""

from __future__ import annotations

from limbeck.tasks.classification import Classified
from limbeck.tasks.face_recognition import FACE_RECOGNITION
from limbeck.tasks.image_classification import IMAGE_CLASSIFICATION
from limbeck.tasks.language_modelling import LANGUAGE_MODELLING
from limbeck.tasks.object_detection import OBJECT_DETECTION
from limbeck.tasks.pose_estimation import POSE_ESTIMATION
from limbeck.tasks.question_answering import QUESTION_ANSWERING
from limbeck.tasks.task import Opening, Predict, Predicted, Say, Settings, Task, TaskData
from limbeck.tasks.text_classification import TEXT_CLASSIFICATION
from limbeck.tasks.translation import TRANSLATION

TASKS = {
    task.name: task
    for task in (
        IMAGE_CLASSIFICATION,
        OBJECT_DETECTION,
        FACE_RECOGNITION,
        POSE_ESTIMATION,
        TEXT_CLASSIFICATION,
        TRANSLATION,
        QUESTION_ANSWERING,
        LANGUAGE_MODELLING,
    )
}

__all__ = [
    "FACE_RECOGNITION",
    "IMAGE_CLASSIFICATION",
    "LANGUAGE_MODELLING",
    "OBJECT_DETECTION",
    "POSE_ESTIMATION",
    "QUESTION_ANSWERING",
    "TASKS",
    "TEXT_CLASSIFICATION",
    "TRANSLATION",
    "Classified",
    "Opening",
    "Predict",
    "Predicted",
    "Say",
    "Settings",
    "Task",
    "TaskData",
]
