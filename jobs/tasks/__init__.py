"""The tasks by name. A new one is a file in this folder and a line here."""

from __future__ import annotations

from jobs.task import Task
from jobs.tasks import click, customers, demand, fraud, image, intent, product_texts, recommend, sentiment, service

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        recommend.TASK,
        click.TASK,
        fraud.TASK,
        demand.TASK,
        customers.TASK,
        sentiment.TASK,
        intent.TASK,
        service.TASK,
        image.TASK,
        product_texts.TASK,
    )
}
