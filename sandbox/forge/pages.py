"""placeholder"""

from fastapi import APIRouter, Response


def problem(status, text):
    return Response(text, status)


def router(forge, actions):
    return APIRouter()
