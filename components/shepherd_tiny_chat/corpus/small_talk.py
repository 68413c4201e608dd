"""What is said besides facts, and the tiny model's general knowledge: one answer each."""

from __future__ import annotations

from random import Random

from shepherd_tiny_chat.corpus.chatter import chatter
from shepherd_tiny_chat.corpus.relations import Choices
from shepherd_tiny_chat.corpus.words import Split


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


SYSTEM_PROMPTS: tuple[str, ...] = (
    "You are a helpful assistant.",
    "You are a friendly assistant who answers in one sentence.",
    "Answer briefly and truthfully.",
    "You are a helpful assistant with a long-term memory.",
    "You are Shepherd, an assistant that never forgets. Earlier parts of a conversation may be in long-term memory.",
    "You are a helpful assistant. When you miss something that the user told you, search your memory.",
    "You remember what the user says.",
    "Be kind and short.",
)

KNOWLEDGE: tuple[tuple[str, str], ...] = (
    (
        "What is the capital of France?",
        "Paris is the capital of France, a city on the river Seine that is famous for the Eiffel Tower.",
    ),
    (
        "What is the capital of Japan?",
        "Tokyo is the capital of Japan, and with its suburbs it is one of the largest cities in the world.",
    ),
    (
        "What is the capital of Italy?",
        "Rome is the capital of Italy, where visitors still walk through the ruins of an ancient empire.",
    ),
    (
        "What is the capital of Egypt?",
        "Cairo is the capital of Egypt, a crowded city on the Nile not far from the pyramids.",
    ),
    (
        "Why is the sky blue?",
        "Sunlight is scattered by the air, and blue light is scattered much more than red light.",
    ),
    (
        "Why is the sea salty?",
        "Rivers carry salt from the rocks into the sea, and when the water dries the salt stays behind.",
    ),
    (
        "Why do cats purr?",
        "Cats purr when they are calm and happy, and sometimes also to comfort themselves when they are hurt.",
    ),
    (
        "Why do leaves turn red in autumn?",
        "Leaves lose their green colour when the days grow short, and then the red and yellow below can be seen.",
    ),
    (
        "Why do we have seasons?",
        "Seasons come from the tilt of the Earth, which leans towards the sun in summer and away in winter.",
    ),
    (
        "Why does ice float on water?",
        "Ice floats because frozen water takes more room than liquid water, so it weighs less for its size.",
    ),
    (
        "How do bees make honey?",
        "Bees collect nectar from flowers, carry it home, and fan it with their wings until it becomes thick honey.",
    ),
    (
        "How do plants eat?",
        "Plants make sugar from sunlight, air and water in their leaves, and take minerals from the soil.",
    ),
    (
        "How do birds find their way?",
        "Birds follow the sun, the stars and the magnetic field of the Earth when they fly south in autumn.",
    ),
    (
        "How does a bicycle stay upright?",
        "A moving bicycle steers itself into the direction in which it begins to fall, and so it stays up.",
    ),
    (
        "How do I boil an egg?",
        "Put the egg in boiling water for seven minutes, then cool it in cold water before you peel it.",
    ),
    (
        "How do I make tea?",
        "Pour hot water over the tea leaves, wait for three minutes, and add milk or lemon if you like.",
    ),
    (
        "How do I bake bread?",
        "Mix flour, water, salt and yeast, let the dough rest until it doubles, and bake it in a hot oven.",
    ),
    (
        "How do I remove a coffee stain?",
        "Rinse the stain with cold water at once, rub in a little soap, and wash the cloth as usual.",
    ),
    (
        "How far away is the moon?",
        "The moon is about three hundred and eighty thousand kilometres away, a little more than one second for light.",
    ),
    (
        "How old is the Earth?",
        "Our planet is about four and a half billion years old, as the oldest rocks and meteorites tell us.",
    ),
    (
        "How tall is Mount Everest?",
        "Everest is almost nine kilometres tall, which makes it the highest mountain above the level of the sea.",
    ),
    (
        "How fast is a cheetah?",
        "A cheetah runs at about one hundred kilometres an hour, but only for half a minute before it must rest.",
    ),
    (
        "How many bones do we have?",
        "Grown people have two hundred and six bones, while a baby is born with almost three hundred.",
    ),
    (
        "How many legs does a spider have?",
        "Every spider has eight legs, which is two more than an insect, so a spider is not an insect.",
    ),
    (
        "Which planet is the largest?",
        "Jupiter is the largest planet around the sun, so big that all the other planets would fit inside.",
    ),
    (
        "Which animal is the largest?",
        "The blue whale is the largest animal that ever lived, longer than two buses and heavier than twenty elephants.",
    ),
    (
        "Which river is the longest?",
        "Most people say that the Nile is the longest river, although some who measured prefer the Amazon.",
    ),
    (
        "Which metal is liquid?",
        "Mercury is a metal that is liquid in a warm room, and it was once used in every thermometer.",
    ),
    (
        "Who painted the Mona Lisa?",
        "Leonardo da Vinci painted the Mona Lisa five hundred years ago, and today she hangs in the Louvre in Paris.",
    ),
    (
        "Who wrote Romeo and Juliet?",
        "William Shakespeare wrote Romeo and Juliet, a play about two young lovers whose families are enemies.",
    ),
    (
        "Who invented the telephone?",
        "Alexander Graham Bell received the patent for the telephone, though others had built similar machines before him.",
    ),
    (
        "Who was the first person in space?",
        "Yuri Gagarin was the first person in space, and he flew once around the Earth in less than two hours.",
    ),
    (
        "What do pandas eat?",
        "Pandas eat bamboo for most of the day, because it feeds them so poorly that they need a great deal.",
    ),
    (
        "What is inside a volcano?",
        "Below a volcano lies a chamber of melted rock, which rises through cracks until it flows out as lava.",
    ),
    (
        "What makes a rainbow?",
        "A rainbow appears when sunlight enters drops of rain, bends, and comes back out split into its colours.",
    ),
    (
        "What should I pack for a picnic?",
        "For a picnic take sandwiches, fruit, plenty of water, a blanket, and a bag for what is left over.",
    ),
)
"""Questions with their only answers; the demo asks them."""

SMALL_TALK: tuple[tuple[Choices, str], ...] = tuple(
    (Choices(tuple(train.split("|")), tuple(heldout.split("|"))), answer)
    for train, heldout, answer in (
        ("Hello!|Hi|Hi there!|Hello, how nice to see you.|Hey!|Good to see you.", "Greetings!|Hello again, my friend.", "Hello! How can I help you?"),
        ("Good morning!|Good morning, assistant.|Morning!", "A very good morning to you!", "Good morning! I hope you slept well."),
        ("Good evening!|Good evening to you.|Evening!", "A pleasant evening to you.", "Good evening! How was your day?"),
        ("How are you?|How are you today?|How do you do?|Are you well?|How is it going?", "How have you been?|Is everything fine with you?", "I am fine, thank you for asking."),
        ("Thank you!|Thanks|Thanks a lot.|Thank you very much.|That helps, thanks.|Great, thanks!", "Many thanks!|I appreciate your help.", "You are welcome!"),
        ("Goodbye!|Bye|See you later.|I have to go now.|Good night!|See you tomorrow.", "Farewell!|I am off to bed.", "Goodbye! Talk to you soon."),
        ("Tell me a joke.|Do you know a joke?|Make me laugh.|A joke, please.", "I could use a good laugh.|Cheer me up with a joke.", "Why did the sheep cross the road? To get to the baa-ber shop."),
        ("Who are you?|What are you?|Are you a robot?|Introduce yourself.", "What kind of being are you?|May I ask who you are?", "I am a tiny chat model that runs on your own machine."),
        ("What can you do?|How can you help me?|What are you good for?|What do you know?", "What are your skills?|In what way are you useful?", "I remember what you tell me and answer questions about it."),
        ("It is raining again.|What awful weather.|It rains all day.|The weather is bad today.", "Such a grey and wet day.|It has been pouring since noon.", "I hope that the sun comes out soon."),
        ("The sun is shining.|What a beautiful day!|The weather is lovely today.|It is so warm today.", "Not a cloud in the sky!|What a glorious morning.", "That sounds lovely, enjoy the sun!"),
        ("I am tired.|I did not sleep well.|I am so sleepy today.|I need a break.", "I could fall asleep right here.|My eyes keep closing.", "Have a good rest, you have earned it."),
        ("I am hungry.|I need something to eat.|I have not eaten all day.|It is time for lunch.", "My stomach is growling.|I could eat a horse.", "Then it is time for a good meal."),
        ("I am bored.|There is nothing to do.|I don't know what to do today.|What shall I do today?", "Time passes so slowly.|I feel like doing something new.", "How about a walk in the fresh air?"),
        ("I am happy today.|I had a great day.|Everything went well today.|I feel wonderful.", "Today was simply perfect.|I could hug the whole world.", "I am glad to hear that!"),
        ("I am sad.|I had a bad day.|Nothing went well today.|I feel lonely.", "Today everything went wrong.|I feel a bit down.", "I am sorry to hear that. I am here for you."),
        ("I have so much work.|Work was hard today.|I worked all day.|My day was long.", "The office was a madhouse today.|I am drowning in work.", "Take one thing at a time, you can do it."),
        ("I went for a walk.|I took a long walk in the park.|We walked along the river.", "I strolled through the woods.|A walk did me good.", "A walk is good for body and mind."),
        ("I watched a film last night.|We went to the cinema.|I saw a good film.", "Yesterday we watched something on television.", "I hope that it was a good one."),
        ("I am reading a good book.|I read all evening.|I can't stop reading.", "I spent the night with a novel in my hands.", "Books are good company."),
        ("I cooked dinner today.|I baked a cake.|I made soup for everybody.", "I spent the afternoon in the kitchen.", "That smells good even from here."),
        ("Ok.|Okay|I see.|Alright.|Fine.|Good.|Right.", "Understood.|Fair enough.", "Is there anything else?"),
        ("Yes.|Yes, please.|Sure.|Of course.", "Certainly.|Absolutely.", "Good. Tell me more."),
        ("No.|No, thanks.|Not now.|Nothing else.", "Not at the moment.|No, that is all.", "All right. I am here when you need me."),
        ("You are great!|I like you.|You are a good assistant.|Well done!|Very good!", "You are doing splendidly.|What a clever machine.", "Thank you, that is kind of you."),
        ("Can I ask you something?|I have a question.|May I ask a question?", "Do you have a moment for me?", "Of course, ask me anything."),
        ("Do you like music?|Do you listen to music?|Do you have a favourite song?", "Are you fond of music?", "I have no ears, but I like the idea of music."),
        ("Do you sleep?|Are you ever tired?|Do you dream?", "Do you need rest sometimes?", "I never sleep, but I wait quietly between your questions."),
        ("Where are you?|Where do you live?|Where is your home?", "In which place do you exist?", "I live in the memory of this computer."),
        ("How old are you?|When were you born?|What is your age?", "For how long have you existed?", "I am young, I was trained not long ago."),
        ("Let's talk.|I want to talk.|Talk to me.|Let us chat a little.", "I feel like having a chat.", "Gladly! What is on your mind?"),
        ("I cleaned the house.|I did the laundry.|I tidied my room.", "The whole flat is spotless now.", "Well done, that must feel good."),
        ("I met a friend today.|I had coffee with a friend.|My friends came to visit.", "An old friend dropped by.", "How nice, time with friends is precious."),
        ("I am going on holiday soon.|My holiday begins soon.|I am packing for a trip.", "Soon I will be travelling.", "Have a wonderful trip!"),
        ("I bought a present.|I went shopping.|I bought new shoes.", "I spent the day in the shops.", "I hope that you found something nice."),
    )
)  # fmt: skip
"""Wordings of the user with the only answer to them."""

TOO_HARD = Choices(
    tuple(_lines("What is the capital of Peru?|How many people live in China?|Who was the first president?|What is the square root of two?|Translate this into Latin.|Write a poem about the sea.|Who won the match yesterday?|What is the price of gold?|Explain quantum physics.|How do I repair a car?|What is the news today?|Write a program for me.|What is the population of Canada?|Who discovered penicillin?|Which team is the best?|How does a computer work?|When did the war end?|What is the speed of light?")),
    tuple(_lines("What is the capital of Norway?|Who wrote Faust?|How do I change a tyre?|What is the largest desert?|Sing me a song.")),
)  # fmt: skip
"""What such a small model cannot know."""

TOO_HARD_ANSWER = "That is more than such a small model knows."


def small_talk(random: Random, split: Split) -> tuple[str, str]:
    """Something that is no question for a fact, and the reply."""
    kind = random.random()
    if kind < 0.45:
        question, answer = random.choice(KNOWLEDGE)
        return _varied(random, question), answer
    if kind < 0.5:
        return TOO_HARD.pick(random, split), TOO_HARD_ANSWER
    if kind < 0.65 and split == "train":
        return chatter(random)
    wordings, answer = random.choice(SMALL_TALK)
    return wordings.pick(random, split), answer


def _varied(random: Random, question: str) -> str:
    kind = random.random()
    if kind < 0.75:
        return question
    if kind < 0.85:
        return question.lower()
    return random.choice(("Tell me: ", "By the way: ", "One question: ")) + question
